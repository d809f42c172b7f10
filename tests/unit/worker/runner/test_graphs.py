"""The captured path without a GPU: the functions that would be captured are run where a graph would be replayed."""

from dataclasses import replace

import pytest
import torch

from kernels.rank_sum import FEW_TOKENS
from services.worker.parallel.group import TensorParallel
from services.worker.runner.config import RunnerConfig
from services.worker.runner.graphs import SAMPLING_KINDS, StepGraphs
from services.worker.runner.interface import Runner
from services.worker.runner.load import load_model, new_runner, run_largest_step
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import SlotSampling
from services.worker.runner.shapes import MAX_CHUNKS, StepShape
from services.worker.runner.start import RootRunner
from services.worker.sampling.parameters import Feature
from services.worker.sampling.sampler import Sampler
from tests.fakes.naive_engine import Job, NaiveEngine
from tests.fakes.tiny_model import make_model
from tests.unit.worker.runner.test_sampling import EVERYTHING, PLAIN, others


class RunsInsteadOfReplaying(StepGraphs):
    """Captures nothing; replays by calling. As in a pool, a replay overwrites what any step before it gave."""

    def __init__(self, sizes, forward, finish, before, beside=None):
        self.sizes, self._forward, self._finish = sizes, forward, finish
        self.replayed = []
        self.results = beside.results if beside else []
        for size in sizes:
            before(size)
            for kind in SAMPLING_KINDS:
                finish(size, forward(size), kind)

    def forward(self, size):
        self.replayed.append(size)
        for result in self.results:
            result.fill_(-1)
        self.hidden = self._forward(size)
        self.results[:] = [self.hidden]
        return self.hidden

    def finish(self, size, features):
        if features not in SAMPLING_KINDS:
            return None
        output = self._finish(size, self.hidden, features)
        self.results.append(output.ids)
        return output


SHAPES = [StepShape(4, 0, 1), StepShape(8, 0, 1), StepShape(12, 3, 2), StepShape(24, 8, 4)]


@pytest.fixture(scope="module")
def padded(tmp_path_factory, monkeypatch_module) -> tuple[Runner, Runner]:
    """A runner whose steps go through graphs of the sizes below, and one without, on the same model."""
    monkeypatch_module.setattr("services.worker.runner.model_runner.StepGraphs", RunsInsteadOfReplaying)
    model_dir = make_model(tmp_path_factory.mktemp("model"), "qwen3")
    config = RunnerConfig(str(model_dir), device="cpu", max_slots=20, max_model_len=512, cpu_threads=1)
    loaded = load_model(config, TensorParallel(), torch.device("cpu"))
    with torch.inference_mode():
        runners = [new_runner(config, loaded, 257) for _ in range(2)]
    runners[0].capture_graphs([3, 8, 16], SHAPES)
    info = type("Info", (), {"block_size": 16})
    return tuple(RootRunner(runner, info, None) for runner in runners)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_padded_steps_draw_what_exact_ones_do(padded):
    jobs = [*others(5), Job([1, 2, 3], 40, PLAIN), Job([9], 25, EVERYTHING), Job([4, 4], 33)]
    graphs, eager = (NaiveEngine(runner, chunk_size=6).generate(jobs) for runner in padded)
    assert graphs == eager


def test_steps_of_every_kind_of_sampling_are_padded_to_the_next_size(padded):
    replayed = padded[0]._local._decode_graphs.replayed
    for sampling in (SlotSampling(), PLAIN, SlotSampling(temperature=1, top_p=0.5), EVERYTHING):
        for rows, size in ((1, 3), (3, 3), (4, 8), (16, 16)):
            replayed.clear()
            NaiveEngine(padded[0]).run([Job([5, 6], 3, sampling) for _ in range(rows)])
            assert replayed == [size] * 2


def test_a_batch_over_the_largest_size_runs_without_graphs(padded):
    padded[0]._local._decode_graphs.replayed.clear()
    rows = NaiveEngine(padded[0]).generate([Job([5, 6], 4) for _ in range(17)])
    assert padded[0]._local._decode_graphs.replayed == []
    assert all(row == rows[0] for row in rows)


def test_a_lone_chunk_is_replayed_padded_and_its_tokens_are_those_of_an_exact_step(padded):
    replayed = padded[0]._local._mixed_graphs.replayed
    lone, small = SHAPES[:2], SHAPES[2]
    for length, sizes in ((1, lone[:1]), (4, lone[:1]), (6, lone[1:]), (8, lone[1:]), (11, [small])):
        replayed.clear()
        job = Job(list(range(1, length + 1)), 6, SlotSampling(temperature=1, seed=length))
        graphs, eager = (NaiveEngine(runner, chunk_size=16).generate([job]) for runner in padded)
        assert replayed == sizes
        assert graphs == eager


def test_a_shape_may_have_more_rows_than_there_are_slots(tmp_path, monkeypatch):
    monkeypatch.setattr("services.worker.runner.model_runner.StepGraphs", RunsInsteadOfReplaying)
    config = RunnerConfig(
        str(make_model(tmp_path, "llama")), device="cpu", max_slots=2, max_model_len=64, cpu_threads=1
    )
    loaded = load_model(config, TensorParallel(), torch.device("cpu"))
    info, ids = type("Info", (), {"block_size": 16}), []
    shape = StepShape(24, 2, MAX_CHUNKS)
    for shapes in ([shape], []):
        with torch.inference_mode():
            runner = new_runner(config, loaded, 17)
        runner.capture_graphs([2], shapes)
        jobs = [Job([5, 6, 7], 8), Job([*range(18)], 4, join_at=3)]
        ids.append(NaiveEngine(RootRunner(runner, info, None)).generate(jobs))
        assert runner._mixed_graphs.replayed == [*shapes, *shapes]  # a prompt alone, and one beside a decode
    assert ids[0] == ids[1]


@torch.inference_mode()
@pytest.mark.parametrize(("slots", "tokens"), [(4, 16), (1, 8), (3, 2)])
def test_the_steps_that_measure_memory_run_on_any_shape(tmp_path, monkeypatch, slots, tokens):
    launched = []
    launch = ModelRunner.launch

    def note(runner, plan):
        launched.append(plan)
        return launch(runner, plan)

    monkeypatch.setattr(ModelRunner, "launch", note)
    config = RunnerConfig(
        str(make_model(tmp_path, "llama")), device="cpu", max_slots=slots, max_step_tokens=tokens,
        max_model_len=64, cpu_threads=1,
    )  # fmt: skip
    run_largest_step(config, load_model(config, TensorParallel(), torch.device("cpu")))
    assert max(plan.num_tokens for plan in launched) == tokens
    assert any(len(plan.starts) == min(slots, tokens) for plan in launched)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("slots", "sizes"), [(40, {1: 1, 16: 16, 32: 32, 64: 40}), (8, {1: 1, 16: 8, 64: 8})]
)
def test_start_runs_every_variant_that_service_can_meet_without_graphs(tmp_path, monkeypatch, slots, sizes):
    """`sizes`: rows that sample, by the tokens up to which a table's product serves."""
    table = {"linear": {"a": [{"max_tokens": size} for size in sizes], "b": [{"max_tokens": 1}]}}
    monkeypatch.setattr("kernels.linear.tuned", lambda device: table)
    steps, contexts, kinds, decodes = set(), set(), set(), set()
    forward, sampled = ModelRunner._forward_mixed, Sampler.sample

    def note_chunks(runner, views, num_decodes, longest_chunk, longest, **options):
        contexts.add(longest)
        return forward(runner, views, num_decodes, longest_chunk, longest, **options)

    def note_sampling(sampler, logits, views, slots, features):
        kinds.add(features)
        return sampled(sampler, logits, views, slots, features)

    launch = ModelRunner.launch

    def note_step(runner, plan):
        steps.add((plan.num_tokens, len(plan.sampled_slots)))
        decodes.add((len(plan.decode_slots), len(plan.prefills)))
        return launch(runner, plan)

    monkeypatch.setattr(ModelRunner, "launch", note_step)
    monkeypatch.setattr(ModelRunner, "_forward_mixed", note_chunks)
    monkeypatch.setattr(Sampler, "sample", note_sampling)
    config = RunnerConfig(
        str(make_model(tmp_path, "llama")), device="cpu", max_slots=slots, max_step_tokens=96,
        max_model_len=60, cpu_threads=1,
    )  # fmt: skip
    run_largest_step(config, load_model(config, TensorParallel(), torch.device("cpu")))
    assert set(sizes.items()) <= steps
    assert contexts >= {2, 4, 8, 16, 32, 60}
    assert decodes >= {(1, 0), (1, 1)}
    draws = (0, Feature.TEMPERATURE, Feature.TEMPERATURE | Feature.TOP)
    uncommon = (Feature.PENALTY, Feature.BIAS, Feature.MASK)
    everything = Feature.PENALTY | Feature.BIAS | Feature.MASK
    assert {
        draw | changed | told
        for draw in draws
        for changed in (0, everything)
        for told in (0, Feature.LOGPROBS)
    } <= kinds
    assert {a | b for a in uncommon for b in uncommon} <= kinds


@torch.inference_mode()
def test_start_runs_every_variant_of_the_sums_over_ranks(tmp_path, monkeypatch):
    tokens = set()
    launch = ModelRunner.launch

    def note_step(runner, plan):
        tokens.add(plan.num_tokens)
        return launch(runner, plan)

    monkeypatch.setattr(ModelRunner, "launch", note_step)
    config = RunnerConfig(
        str(make_model(tmp_path, "llama")), device="cpu", max_slots=1, max_step_tokens=3 * FEW_TOKENS,
        max_model_len=3 * FEW_TOKENS, cpu_threads=1,
    )  # fmt: skip
    loaded = load_model(config, TensorParallel(), torch.device("cpu"))
    run_largest_step(config, replace(loaded, tp=TensorParallel(size=2)))
    assert tokens >= {1, FEW_TOKENS, FEW_TOKENS + 1}


def test_chunks_beside_decodes_are_replayed_padded(padded):
    replayed = padded[0]._local._mixed_graphs.replayed
    jobs = [
        Job([7, 8, 9], 12, SlotSampling(temperature=1, seed=1)),
        Job([1] * 10, 5, PLAIN, join_at=2),
        Job([2] * 9, 5, EVERYTHING, join_at=2),
        Job([3] * 14, 4, join_at=4),
    ]
    replayed.clear()
    graphs, eager = (NaiveEngine(runner, chunk_size=7).generate(jobs) for runner in padded)
    assert replayed == [SHAPES[0], SHAPES[3], SHAPES[2], SHAPES[2], SHAPES[2]]
    assert graphs == eager
