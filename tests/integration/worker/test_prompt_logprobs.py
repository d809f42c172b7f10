"""Log probabilities of prompt ids are those of ``transformers`` in float32, however the prompt was computed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from services.common.messages.frames import PromptLogprobs
from services.common.messages.request import GenerateRequest
from services.worker.engine.requests import EngineConfig
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.start import start_runner
from tests.fakes.tiny_model import make_model
from tests.integration.worker.local import LocalEngine, Run
from tests.integration.worker.peer import generate

VOCAB_SIZE = 513  # two ranks do not divide it
NUM_TOP = 3


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "qwen3", vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module", params=[1, 2], ids=["tp1", "tp2"])
def runner(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[Runner]:
    config = RunnerConfig(
        str(model_dir),
        device="cpu",
        tp=request.param,
        block_size=4,
        max_slots=8,
        max_step_tokens=128,
        max_total_token_num=1024,
        cpu_threads=1,
    )
    made = start_runner(config)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(model_dir: Path):
    """All log probabilities [prompt, vocabulary] of a prompt."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)

    @cache
    def logprobs(prompt: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([prompt])).logits[0].log_softmax(-1)

    return logprobs


def scored(count: int = 6, *, num_choices: int = 1, **fields: object) -> list[GenerateRequest]:
    rng = random.Random(7)
    requests = []
    for i in range(count):
        prompt = [rng.randrange(440) for _ in range(rng.choice((1, 2, 5, 16, 17, 33, 40)))]
        options = {"max_tokens": 6, "temperature": 0.0, "ignore_eos": True} | fields
        request = generate(f"r{i}", prompt, seeds=tuple(range(num_choices)), **options)
        request.prompt_logprobs = NUM_TOP
        requests.append(request)
    return requests


def joined(parts: list[PromptLogprobs]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values, ranks, likeliest ids and their values; the parts follow each other without a gap."""
    for before, after in itertools.pairwise(parts):
        assert after.first == before.first + before.count
    assert all(part.is_whole for part in parts)
    return (
        np.frombuffer(b"".join(p.values for p in parts), "<f4"),
        np.frombuffer(b"".join(p.ranks for p in parts), "<i4"),
        np.frombuffer(b"".join(p.top_ids for p in parts), "<i4").reshape(-1, NUM_TOP),
        np.frombuffer(b"".join(p.top_values for p in parts), "<f4").reshape(-1, NUM_TOP),
    )


def assert_as_reference(reference, requests: list[GenerateRequest], run: Run) -> None:
    for request in requests:
        prompt = request.prompt_ids
        if len(prompt) == 1:
            assert f"{request.request_id}:0" not in run.prompt
            continue
        parts = run.prompt[f"{request.request_id}:0"]
        values, ranks, top_ids, top_values = joined(parts)
        expected = reference(tuple(prompt))[:-1]
        own = expected[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        assert parts[0].first == 1
        assert len(values) == len(prompt) - 1
        np.testing.assert_allclose(values, own, atol=1e-4)
        np.testing.assert_array_equal(ranks, (expected > own[:, None]).sum(1) + 1)
        best = expected.topk(NUM_TOP)
        np.testing.assert_array_equal(top_ids, best.indices)
        np.testing.assert_allclose(top_values, best.values, atol=1e-4)


@pytest.mark.parametrize("chunk", [7, 128])
def test_they_equal_transformers_over_ragged_batches_and_odd_chunks(
    runner: Runner, reference, chunk: int
) -> None:
    engine = LocalEngine(runner, EngineConfig(max_chunk_tokens=chunk))
    assert_as_reference(reference, scored(), engine.run(scored(), join_every=1))


def test_a_warm_cache_is_not_used_and_a_cold_one_is_filled(runner: Runner, reference) -> None:
    engine = LocalEngine(runner)
    engine.run(scored())
    again = engine.run(scored())
    assert_as_reference(reference, scored(), again)
    assert not any(again.cached.values())
    plain = scored()
    for request in plain:
        request.prompt_logprobs = -1
    cached = engine.run(plain)
    assert cached.prompt == {}
    assert cached.ids == again.ids
    assert all(cached.cached[f"{r.request_id}:0"] == (len(r.prompt_ids) - 1) // 4 * 4 for r in plain)


@pytest.mark.parametrize("depth", [0, 1])
def test_each_id_is_scored_once_under_preemption(runner: Runner, reference, depth: int) -> None:
    config = EngineConfig(conservativeness=0.0, max_chunk_tokens=5, max_step_tokens=16)
    engine = LocalEngine(runner, config, num_blocks=22, depth=depth)
    requests = scored(8, max_tokens=24)
    run = engine.run(requests, join_every=1)
    assert run.num_preempted > 0
    assert_as_reference(reference, requests, run)


def test_choices_share_one_scored_prompt_and_draw_what_they_would_alone(runner: Runner, reference) -> None:
    requests = scored(num_choices=3, temperature=1.0)
    run = LocalEngine(runner).run(requests)
    assert_as_reference(reference, requests, run)
    assert {name[-1] for name in run.prompt} == {"0"}
    plain = scored(num_choices=3, temperature=1.0)
    for request in plain:
        request.prompt_logprobs = -1
    assert LocalEngine(runner).run(plain).ids == run.ids


def test_ids_emitted_before_a_resume_are_not_scored(runner: Runner, reference) -> None:
    whole = LocalEngine(runner).run(scored())
    resumed = scored()
    for request in resumed:
        request.choices[0].output_ids = whole.ids[f"{request.request_id}:0"][:4]
    run = LocalEngine(runner, EngineConfig(max_chunk_tokens=7)).run(resumed)
    assert_as_reference(reference, resumed, run)
    assert all(run.ids[name] == whole.ids[name][4:] for name in run.ids)
