"""Greedy tokens of the demo model on a GPU against transformers: ``python -m bench.gpu_agreement [--tp 2]``.

Ours come from the runner as it serves (captured graphs, all prompts in one batch, then each alone). Transformers
judges them in one forward pass a prompt: a token agrees if it is the likeliest after the ones before it. Where it is
not, the two logits' distance says whether it was a tie at the type's precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.data.mix import evaluation_cases
from demo.through_transformers import prompt_ids
from services.common.model_files import DEMO_MODEL
from services.worker.runner.config import RunnerConfig
from services.worker.runner.start import start_runner
from tests.fakes.naive_engine import Job, NaiveEngine


@torch.inference_mode()
def judge(
    model_dir: Path, dtype: str, prompts: list[list[int]], answers: list[list[int]]
) -> tuple[int, float]:
    """Prompts of which every token agrees, and the largest distance of one that does not."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).cuda()
    agreeing, worst = 0, 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer], device="cuda")
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
        gaps = logits.amax(1) - chosen
        agreeing += int(not bool((gaps > 0).any()))
        worst = max(worst, float(gaps.max()))
    return agreeing, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--tp", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    cases = evaluation_cases(0, 8)[: arguments.prompts]
    prompts = [prompt_ids(tokenizer, case) for case in cases]
    prompts = [prompt for prompt in prompts if len(prompt) < 1024]
    jobs = [Job(prompt, arguments.tokens) for prompt in prompts]
    for dtype in ("float32", "bfloat16"):
        config = RunnerConfig(
            str(DEMO_MODEL), device="cuda", dtype=dtype, tp=arguments.tp, max_slots=256, max_step_tokens=65536,
            mem_fraction=0.3, graph_split_batch_size=1, graph_grow_step_size=64,
        )  # fmt: skip
        runner = start_runner(config)
        engine = NaiveEngine(runner)
        together = engine.generate(jobs)
        again = engine.generate(jobs)
        alone = [engine.generate([job])[0] for job in jobs]
        runner.close()
        agreeing, worst = judge(DEMO_MODEL, dtype, prompts, together)
        same = sum(a == b for a, b in zip(together, alone, strict=True))
        print(
            f"{torch.cuda.get_device_name()} tp {arguments.tp} {dtype}: {agreeing} of {len(jobs)} prompts agree with "
            f"transformers in all {arguments.tokens} tokens (largest logit distance {worst:.3g}); "
            f"{same} alone as in the batch; run twice: {'equal' if together == again else 'DIFFERENT'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
