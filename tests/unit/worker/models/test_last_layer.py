"""The last layer runs for the rows that sample alone, and they come out as of a layer that runs for every token."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kernels.rank_sum import FEW_TOKENS, PeerMemory
from services.worker.layers.linear import RowParallelLinear, stream_rows
from services.worker.parallel.group import TensorParallel
from services.worker.runner import model_runner
from services.worker.runner.config import RunnerConfig
from services.worker.runner.load import LoadedModel, load_model, new_runner
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan
from tests.fakes.tiny_model import make_model
from tests.unit.worker.models.test_exact import VARIANTS

NUM_BLOCKS, BLOCK_SIZE = 32, 16


def chunk(slot: int, start: int, length: int, samples: bool, scored: bool = False) -> PrefillChunk:
    ids = np.random.default_rng([slot, start]).integers(0, 500, length).astype(np.int32)
    return PrefillChunk(slot, start, ids, samples, ids if scored else ids[:0])


def steps(scored: bool = False) -> Iterator[StepPlan]:
    """Chunks that end their prompts, chunks that do not, alone and beside decodes; and a step of decodes."""
    first = StepPlan(0, [SlotStart(slot, SlotSampling()) for slot in range(4)])
    for slot in range(4):
        first.set_blocks(slot, 0, [*range(1 + 4 * slot, 5 + 4 * slot)])
    first.prefills = [chunk(0, 0, 9, samples=True), chunk(1, 0, 7, samples=False)]
    yield first
    yield StepPlan(1, [], [0], [chunk(1, 7, 11, samples=True, scored=scored), chunk(2, 0, 20, samples=False)])
    yield StepPlan(2, [], [1, 0], [chunk(2, 20, 13, samples=True)])
    yield StepPlan(3, [], [], [chunk(3, 0, 12, samples=False)])
    yield StepPlan(4, [], [0, 2], [chunk(3, 12, 1, samples=True)])
    yield StepPlan(5, [], [3, 0, 1, 2])


def load(model_dir, family: str, **overrides) -> tuple[RunnerConfig, LoadedModel]:
    model_dir = make_model(model_dir, family, **overrides)
    config = RunnerConfig(
        str(model_dir), device="cpu", max_slots=4, max_model_len=64, block_size=BLOCK_SIZE, cpu_threads=1
    )
    return config, load_model(config, TensorParallel(), torch.device("cpu"))


def run(config: RunnerConfig, loaded: LoadedModel, scored: bool) -> tuple[list[torch.Tensor], ModelRunner]:
    """The hidden states that went to the head, and the runner after all steps."""
    with torch.inference_mode():
        runner = new_runner(config, loaded, NUM_BLOCKS)
    heads = []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        heads.append(hidden.clone())
        return type(loaded.model).logits(loaded.model, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model, "logits", logits)
        for plan in steps(scored):
            runner.launch(plan).result()
    return heads, runner


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_and_stored_keys_are_those_of_a_layer_for_every_token(
    variant, scored, tmp_path, monkeypatch
):
    family, overrides = VARIANTS[variant]
    config, loaded = load(tmp_path, family, **overrides)
    few, runner = run(config, loaded, scored)
    monkeypatch.setattr(model_runner, "few_sample", lambda tokens, rows: False)
    every, whole = run(config, loaded, scored)
    assert [len(hidden) for hidden in few] == [1, *([11] if scored else []), 2, 3, 3, 4]
    for found, expected in zip(few, every, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for found, expected in zip(runner._kv.layers, whole._kv.layers, strict=True):
        torch.testing.assert_close((found.k, found.v), (expected.k, expected.v), rtol=0, atol=0)


@pytest.mark.parametrize("biased", [False, True], ids=["added in place", "added by a norm"])
@pytest.mark.parametrize("scored", [False, True])
def test_the_last_layers_products_have_a_row_for_each_that_samples(biased, scored, tmp_path, monkeypatch):
    config, loaded = load(tmp_path, "llama", mlp_bias=biased, attention_bias=biased)
    rows: list[int] = []
    add_to, add_and_normalise = RowParallelLinear.add_to, RowParallelLinear.add_and_normalise

    def note_and_add(product, stream, x):
        rows.append(len(x))
        return add_to(product, stream, x)

    def note_and_normalise(product, x, stream, norm):
        rows.append(len(x))
        return add_and_normalise(product, x, stream, norm)

    monkeypatch.setattr(RowParallelLinear, "add_to", note_and_add)
    monkeypatch.setattr(RowParallelLinear, "add_and_normalise", note_and_normalise)
    run(config, loaded, scored)
    # By step, of both layers' attention and MLP. A step that samples nothing has one row of padding.
    assert [rows[step : step + 4] for step in range(0, len(rows), 4)] == [
        [16, 16, 1, 1],
        [32] * 4 if scored else [32, 32, 2, 2],
        [15, 15, 3, 3],
        [12, 12, 1, 1],
        [3] * 4,
        [4] * 4,
    ]


@pytest.mark.parametrize("tokens", [FEW_TOKENS, FEW_TOKENS + 3, 100])
def test_a_stream_that_ranks_share_out_is_whole_again_in_its_rows(tokens):
    """Each rank's rows without the sum over ranks, which this test takes."""
    whole = torch.randn(tokens, 16, generator=torch.Generator().manual_seed(tokens))
    rows = torch.tensor([tokens - 1, 0, 7, tokens // 2, 0])
    capacity = (
        64 * whole.nbytes // tokens
    )  # not enough for 100 tokens, whose sums NCCL takes: all ranks keep all
    share, summed = -(-tokens // 4), torch.zeros(len(rows), 16)
    for rank in range(4):
        stream = whole.clone()
        memory = PeerMemory(torch.zeros(4, dtype=torch.int64), torch.empty(0), rank, capacity, max_programs=1)
        if FEW_TOKENS < tokens < 64:
            stream[: rank * share] = stream[(rank + 1) * share :] = torch.nan
            summed += stream_rows(stream, rows, TensorParallel(rank, 4, peer=memory))
        else:
            summed = stream_rows(stream, rows, TensorParallel(rank, 4, peer=memory))
    assert torch.equal(summed, whole[rows])
