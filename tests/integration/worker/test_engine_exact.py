"""Scheduler, cache and the real runner together: ids depend on the request alone.

Against ``transformers`` in float32 for greedy decoding, and against an undisturbed run for seeded sampling.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.requests import EngineConfig
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.start import start_runner
from tests.fakes.tiny_model import make_model
from tests.integration.worker.local import LocalEngine
from tests.integration.worker.peer import generate

VARIANTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": 12},
    "qwen2": {},
}


class Loaded:
    def __init__(self, directory: Path, family: str) -> None:
        self.directory = make_model(directory, family, **VARIANTS[family])
        self.runner: Runner = start_runner(
            RunnerConfig(
                str(self.directory),
                device="cpu",
                block_size=4,
                max_slots=16,
                max_step_tokens=256,
                max_total_token_num=2048,
                cpu_threads=1,
            )
        )
        self.reference = cache(self._reference)

    def _reference(self, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
        from transformers import AutoModelForCausalLM

        if not hasattr(self, "model"):
            self.model = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32)
            self.model.generation_config.eos_token_id = None
        with torch.inference_mode():
            ids = torch.tensor([prompt])
            made = self.model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
        return made[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=list(VARIANTS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    made = Loaded(tmp_path_factory.mktemp("model"), request.param)
    yield made
    made.runner.close()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    made = Loaded(tmp_path_factory.mktemp("model"), "qwen3")
    yield made
    made.runner.close()


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(440) for _ in range(rng.randrange(1, 40))] for _ in range(count)]


def greedy(count: int = 6) -> list[Any]:
    return [
        generate(f"r{i}", prompt, max_tokens=6 + 3 * i, temperature=0.0, ignore_eos=True)
        for i, prompt in enumerate(prompts(count))
    ]


def assert_as_reference(loaded: Loaded, requests: list[Any], ids: dict[str, list[int]]) -> None:
    for request in requests:
        expected = loaded.reference(tuple(request.prompt_ids), request.sampling.max_tokens)
        for choice in request.choices:
            assert ids[f"{request.request_id}:{choice.index}"] == expected[len(choice.output_ids) :]


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("chunk", [5, 256])
def test_greedy_equals_transformers_over_ragged_batches_and_odd_chunks(
    loaded: Loaded, chunk: int, depth: int
) -> None:
    engine = LocalEngine(loaded.runner, EngineConfig(max_chunk_tokens=chunk), depth=depth)
    run = engine.run(greedy(), join_every=2)
    assert_as_reference(loaded, greedy(), run.ids)


def test_greedy_equals_transformers_with_a_warm_cache(loaded: Loaded) -> None:
    engine = LocalEngine(loaded.runner)
    cold, warm = engine.run(greedy()), engine.run(greedy())
    assert_as_reference(loaded, greedy(), cold.ids)
    assert warm.ids == cold.ids
    assert sum(warm.cached.values()) > sum(cold.cached.values())


def test_greedy_equals_transformers_under_preemption(loaded: Loaded) -> None:
    engine = LocalEngine(loaded.runner, EngineConfig(conservativeness=0.0), num_blocks=22)
    run = engine.run(greedy())
    assert run.num_preempted > 0
    assert_as_reference(loaded, greedy(), run.ids)


def test_a_resume_goes_on_exactly(loaded: Loaded) -> None:
    whole = LocalEngine(loaded.runner).run(greedy())
    resumed = greedy()
    for i, request in enumerate(resumed):
        request.choices[0].output_ids = whole.ids[f"{request.request_id}:0"][: i + 1]
    run = LocalEngine(loaded.runner).run(resumed)
    assert_as_reference(loaded, resumed, run.ids)


SAMPLED: dict[str, Any] = {
    "temperature": 0.9,
    "top_p": 0.95,
    "top_k": 50,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.2,
    "repetition_penalty": 1.1,
    "ignore_eos": True,
}


def sampled() -> list[Any]:
    return [
        generate(f"r{i}", prompt, seeds=(1000 + i,), max_tokens=16 + i, **SAMPLED)
        for i, prompt in enumerate(prompts(16, seed=1))
    ]


@pytest.fixture(scope="module")
def alone(qwen: Loaded) -> dict[str, list[int]]:
    ids: dict[str, list[int]] = {}
    for request in sampled():
        ids |= LocalEngine(qwen.runner, depth=0).run([request]).ids
    return ids


@pytest.mark.parametrize("depth", [0, 1])
def test_seeded_sampling_is_the_same_alone_and_in_a_batch_of_16(
    qwen: Loaded, alone: dict[str, list[int]], depth: int
) -> None:
    assert LocalEngine(qwen.runner, depth=depth).run(sampled(), join_every=1).ids == alone


@pytest.mark.parametrize("depth", [0, 1])
def test_seeded_sampling_is_the_same_after_preemption(
    qwen: Loaded, alone: dict[str, list[int]], depth: int
) -> None:
    config = EngineConfig(conservativeness=0.0, max_chunk_tokens=7)
    run = LocalEngine(qwen.runner, config, num_blocks=24, depth=depth).run(sampled())
    assert run.num_preempted > 0
    assert run.ids == alone


def test_seeded_sampling_is_the_same_after_a_resume_elsewhere(
    qwen: Loaded, alone: dict[str, list[int]]
) -> None:
    resumed = sampled()
    for i, request in enumerate(resumed):
        request.choices[0].output_ids = alone[f"r{i}:0"][: 1 + i % 7]
    run = LocalEngine(qwen.runner).run(resumed)
    for i, request in enumerate(resumed):
        assert request.choices[0].output_ids + run.ids[f"r{i}:0"] == alone[f"r{i}:0"]


def test_choices_share_one_prefill_and_each_is_as_if_alone(qwen: Loaded) -> None:
    prompt = prompts(1, seed=5)[0] * 3
    seeds = (3, 4, 5, 6)
    together = LocalEngine(qwen.runner).run([generate("n", prompt, seeds=seeds, **SAMPLED)])
    for i, seed in enumerate(seeds):
        single = LocalEngine(qwen.runner).run([generate("one", prompt, seeds=(seed,), **SAMPLED)])
        assert together.ids[f"n:{i}"] == single.ids["one:0"]
    assert together.num_prefilled < 2 * len(prompt)


def test_without_prompt_caching_requests_share_nothing_and_choices_still_do(qwen: Loaded) -> None:
    engine = LocalEngine(qwen.runner, EngineConfig(share_prefixes=False))
    prompt = prompts(1, seed=5)[0] * 2
    engine.run([generate("a", prompt)])
    run = engine.run([generate("b", prompt, seeds=(1, 2))])
    assert run.cached["b:0"] == 0
    assert run.cached["b:1"] > 0


def test_streams_beside_a_cancelled_one_do_not_change(qwen: Loaded, alone: dict[str, list[int]]) -> None:
    engine = LocalEngine(qwen.runner)
    run = engine.run(sampled(), cancel_at={3: ["r2:0"], 6: ["r5:0", "r9:0"]})
    for stream, ids in alone.items():
        if stream not in ("r2:0", "r5:0", "r9:0"):
            assert run.ids[stream] == ids


def test_a_stop_id_ends_the_stream_with_it_and_not_before_min_tokens(
    qwen: Loaded, alone: dict[str, list[int]]
) -> None:
    first = sampled()[15]
    whole = alone["r15:0"]
    first.sampling.stop_token_ids = [whole[4]]
    ids = LocalEngine(qwen.runner).run([first]).ids["r15:0"]
    assert ids == whole[: whole.index(whole[4]) + 1]
    first.sampling.min_tokens = len(ids) + 2
    longer = LocalEngine(qwen.runner).run([first]).ids["r15:0"]
    assert len(longer) >= len(ids) + 2
    assert whole[4] not in longer[: len(ids) + 2]


def test_log_probabilities_come_with_every_id_and_are_the_models_own(qwen: Loaded) -> None:
    request = generate("r", prompts(1)[0], max_tokens=5, temperature=0.0, ignore_eos=True, num_logprobs=2)
    plain = generate("p", prompts(1)[0], max_tokens=5, temperature=0.0, ignore_eos=True)
    run = LocalEngine(qwen.runner).run([request, plain])
    assert run.ids["r:0"] == run.ids["p:0"]
    assert "p:0" not in run.logprobs
    ids = torch.tensor([[*request.prompt_ids, *run.ids["r:0"]]])
    qwen.reference(tuple(request.prompt_ids), 5)
    with torch.inference_mode():
        logits = qwen.model(ids).logits[0].log_softmax(-1)
    at = len(request.prompt_ids) - 1
    expected = [logits[at + i, token].item() for i, token in enumerate(run.ids["r:0"])]
    assert run.logprobs["r:0"] == pytest.approx(expected, abs=1e-4)
