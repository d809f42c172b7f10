"""The step loop over a runner without a model: commands in, outputs out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.common.messages import frames
from services.gateway.life.crashes import MAX_CRASHES
from services.worker.engine.engine import engine_info, scheduler_limits
from services.worker.engine.requests import CRASHES_TO_SUSPECT, EngineConfig
from tests.fakes.runner import FakeRunner, expected_ids
from tests.integration.worker.local import LocalEngine
from tests.integration.worker.peer import generate


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner(num_blocks=64, block_size=4, max_slots=8, max_step_tokens=32)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_streams_are_what_the_model_says_with_any_number_of_steps_under_way(
    runner: FakeRunner, depth: int
) -> None:
    requests = [generate(f"r{i}", list(range(i + 1, i + 12)), seeds=(i,), max_tokens=9) for i in range(12)]
    run = LocalEngine(runner, depth=depth).run(requests, join_every=1)
    for i, request in enumerate(requests):
        assert run.ids[f"r{i}:0"] == expected_ids(request.prompt_ids, i, 9, 97)
    assert set(run.finish.values()) == {frames.LENGTH}


def test_log_probabilities_are_sent_for_those_who_asked(runner: FakeRunner) -> None:
    asked = generate("asked", [1, 2], max_tokens=4, num_logprobs=1)
    run = LocalEngine(runner).run([asked, generate("plain", [1, 2, 3], max_tokens=4)])
    assert run.logprobs == {"asked:0": [-float(token) for token in run.ids["asked:0"]]}


def test_a_request_that_cannot_be_built_fails_alone(runner: FakeRunner) -> None:
    bad = generate("bad", [1, 2])
    bad.sampling.logit_bias_ids = [1]  # without a value: no gateway sends it
    run = LocalEngine(runner).run([generate("good", [3, 4], max_tokens=5), bad])
    assert run.finish == {"good:0": frames.LENGTH, "bad:0": frames.ERROR}
    assert len(run.ids["good:0"]) == 5


def test_a_resume_of_a_choice_that_had_ended_only_ends_again(runner: FakeRunner) -> None:
    run = LocalEngine(runner).run([generate("r", [1, 2], max_tokens=2, outputs=([5, 6],))])
    assert (run.ids["r:0"], run.finish["r:0"]) == ([], frames.LENGTH)
    assert runner.num_launched == 0


def test_two_thousand_cancelled_requests_leave_no_block_behind(runner: FakeRunner) -> None:
    engine = LocalEngine(runner, depth=1)
    for _ in range(52):  # 2,028 cancels
        requests = [generate(f"r{i}", [i, 2, 3, 4, 5], max_tokens=40) for i in range(40)]
        cancel_at = {2 + i: [f"r{i}:0"] for i in range(39)}
        engine.run(requests, join_every=1, cancel_at=cancel_at)  # checks that every block is back


def test_a_broken_device_ends_the_engine(runner: FakeRunner) -> None:
    runner.fail_at_step = 3
    with pytest.raises(RuntimeError, match="the fake device broke"):
        LocalEngine(runner).run([generate("r", [1, 2], max_tokens=20)])


def test_a_request_that_breaks_every_engine_is_found_among_others() -> None:
    requests = {f"r{i}": generate(f"r{i}", [i, 2, 3, 4, 5], max_tokens=20) for i in range(7)}
    requests["fatal"] = generate("fatal", [96] * 5, max_tokens=20)
    crashes = 0
    while requests["fatal"].num_crashes < MAX_CRASHES:
        runner = FakeRunner(num_blocks=64, block_size=4, max_slots=8, max_step_tokens=32)
        runner.fatal_id = 96
        engine = LocalEngine(runner)
        with pytest.raises(RuntimeError, match="fatal id"):
            engine.run(list(requests.values()))
        crashes += 1
        for stream in engine.suspects:
            requests[stream.removesuffix(":0")].num_crashes += 1
    assert crashes == MAX_CRASHES
    assert [name for name, r in requests.items() if r.num_crashes == MAX_CRASHES] == ["fatal"]


def test_the_control_process_is_told_who_is_tried(runner: FakeRunner) -> None:
    tried = [generate(f"r{i}", [i, 2, 3], max_tokens=5) for i in range(2)]
    for request in tried:
        request.num_crashes = CRASHES_TO_SUSPECT
    engine = LocalEngine(runner)
    run = engine.run([generate("plain", [9, 9], max_tokens=30), *tried])
    assert set(run.finish.values()) == {frames.LENGTH}
    assert run.tried == ["r0:0", "", "r1:0", ""] or run.tried == ["r0:0", "r1:0", ""]


def test_limits_are_the_smaller_of_what_was_asked_and_what_fits(runner: FakeRunner) -> None:
    config = EngineConfig(max_running=100, max_step_tokens=8192, eos_ids=(7,))
    info = engine_info(runner.info, config)
    assert (info.num_blocks, info.max_running, info.max_request_tokens) == (63, 8, 252)
    assert info.eos_ids == [7]
    assert scheduler_limits(runner.info, config).max_step_tokens == 32
    assert scheduler_limits(replace(runner.info, least_mixed_tokens=2048), config).least_mixed_tokens == 2048
    unchunked = engine_info(runner.info, EngineConfig(can_chunk=False))
    assert unchunked.max_request_tokens == 32
