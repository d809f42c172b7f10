"""Greedy tokens of the demo model against transformers and against one GPU: ``python -m bench.gpu_agreement [--tp 1 2 4]``.

Ours come from the runner as it serves (captured graphs, all prompts in one batch, then each alone), for each number of
ranks in a process of its own. Transformers judges them in one forward pass a prompt: a token agrees if it is the
likeliest after the ones before it. Where it is not, the two logits' distance says whether it was a tie at the type's
precision; likewise where an answer is not that of the first number of ranks, the distance of the tokens where they part.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.conditions import conditions, write
from demo.data.mix import evaluation_cases
from demo.through_transformers import prompt_ids
from services.common.model_files import DEMO_MODEL
from services.worker.runner.config import RunnerConfig
from services.worker.runner.start import start_runner
from tests.fakes.naive_engine import Job, NaiveEngine

Answers = list[list[int]]


@dataclass
class Given:
    """One runner's answers to all prompts: in one batch, in one batch again, and one by one."""

    together: Answers
    again: Answers
    alone: Answers


def answer(config: RunnerConfig, prompts: list[list[int]], tokens: int) -> Given:
    """Run in a process of its own: a process has one process group, and one GPU's memory."""
    runner = start_runner(config)
    engine = NaiveEngine(runner)
    jobs = [Job(prompt, tokens) for prompt in prompts]
    given = Given(engine.generate(jobs), engine.generate(jobs), [engine.generate([job])[0] for job in jobs])
    runner.close()
    return given


class Judge:
    """Transformers' logits for answers that are already there."""

    def __init__(self, dtype: str) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=getattr(torch, dtype)).to(
            self._device
        )

    @torch.inference_mode()
    def logits(self, prompt: list[int], answer: list[int]) -> torch.Tensor:
        """[len(answer), V]: what each token was drawn from."""
        ids = torch.tensor([prompt + answer], device=self._device)
        return self._model(ids).logits[0, len(prompt) - 1 : -1].float()

    def agreement(self, prompts: list[list[int]], answers: Answers) -> tuple[int, float]:
        """Prompts of which every token agrees, and the largest distance of one that does not."""
        agreeing, worst = 0, 0.0
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = self.logits(prompt, answer)
            chosen = logits.gather(1, torch.tensor(answer, device=self._device)[:, None])[:, 0]
            gap = float((logits.amax(1) - chosen).max())
            agreeing += gap == 0
            worst = max(worst, gap)
        return agreeing, worst

    def parting(self, prompts: list[list[int]], answers: Answers, others: Answers) -> tuple[int, float]:
        """Prompts answered equally, and the largest distance of two tokens where answers part."""
        equal, worst = 0, 0.0
        for prompt, answer, other in zip(prompts, answers, others, strict=True):
            place = next(
                (i for i, pair in enumerate(zip(answer, other, strict=True)) if pair[0] != pair[1]), None
            )
            if place is None:
                equal += 1
                continue
            logits = self.logits(prompt, answer)[place]
            worst = max(worst, abs(float(logits[answer[place]] - logits[other[place]])))
        return equal, worst


def compare(dtype: str, by_ranks: dict[int, Given], prompts: list[list[int]]) -> list[dict[str, Any]]:
    judge, first = Judge(dtype), next(iter(by_ranks.values()))
    rows = []
    for tp, given in by_ranks.items():
        agreeing, worst = judge.agreement(prompts, given.together)
        equal, parting = judge.parting(prompts, first.together, given.together)
        rows.append(
            {
                "tp": tp,
                "dtype": dtype,
                "prompts": len(prompts),
                "tokens": len(given.together[0]),
                "as_transformers": agreeing,
                "largest_distance": worst,
                "alone_as_in_the_batch": sum(
                    a == b for a, b in zip(given.together, given.alone, strict=True)
                ),
                "twice_the_same": given.together == given.again,
                f"as_tp_{next(iter(by_ranks))}": equal,
                "distance_where_they_part": parting,
            }
        )
        print(rows[-1], flush=True)
    return rows


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--tp", type=int, nargs="+", default=[1])
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    cases = evaluation_cases(0, 8)[: arguments.prompts]
    prompts = [ids for case in cases if len(ids := prompt_ids(tokenizer, case)) < 1024]
    report = conditions("python -m bench.gpu_agreement") | {"rows": []}
    for dtype in ("float32", "bfloat16"):
        by_ranks = {}
        for tp in arguments.tp:
            config = RunnerConfig(
                str(DEMO_MODEL), dtype=dtype, tp=tp, max_slots=256, max_step_tokens=65536,
                mem_fraction=0.3, graph_split_batch_size=1, graph_grow_step_size=64,
            )  # fmt: skip
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                by_ranks[tp] = pool.submit(answer, config, prompts, arguments.tokens).result()
        report["rows"] += compare(dtype, by_ranks, prompts)
        if arguments.json:
            write(arguments.json, report)


if __name__ == "__main__":
    main()
