from __future__ import annotations

from dataclasses import replace

import pytest

from services.common.messages import frames
from services.worker.scheduler import State
from services.worker.scheduler.admission import Limits, estimated_peak
from tests.unit.worker.scheduler.harness import Harness


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start + 3 * i) % 97 for i in range(length)]


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 3, 5, 32])
def test_ids_do_not_depend_on_chunks_or_on_steps_under_way(depth: int, chunk: int) -> None:
    h = Harness(max_chunk_tokens=chunk, depth=depth)
    for i in range(6):
        h.add(prompt(5 + 3 * i, i), max_tokens=1 + i)
    h.run()
    h.assert_exact()
    assert set(h.finished.values()) == {frames.LENGTH}


def test_decodes_go_on_while_a_long_prompt_is_prefilled() -> None:
    h = Harness(max_step_tokens=8, depth=0)
    first = h.add(prompt(4), max_tokens=12)
    h.step()
    h.add(prompt(40, 9), max_tokens=2)
    for _ in range(4):
        h.step()
    assert len(h.emitted[first.handle]) == 5
    h.run()
    h.assert_exact()


def test_a_step_under_way_past_the_stop_id_is_dropped() -> None:
    h = Harness(depth=1)
    full = h.expected(h.add(prompt(6), max_tokens=12))
    h.run()
    stopped = h.add(prompt(6), max_tokens=12, stop_ids=frozenset({full[4]}))
    h.run()
    assert h.emitted[stopped.handle] == full[: full.index(full[4]) + 1]
    assert h.finished[stopped.handle] == frames.STOP


def test_stop_ids_count_only_after_min_tokens() -> None:
    h = Harness()
    full = h.expected(h.add(prompt(6), max_tokens=12))
    held = h.add(prompt(6), max_tokens=12, stop_ids=frozenset({full[0]}), min_tokens=1)
    h.run()
    assert len(h.emitted[held.handle]) > 1


def test_a_warm_prefix_is_not_computed_again_and_one_id_always_is() -> None:
    h = Harness()
    h.add(prompt(16), max_tokens=4)
    h.run()
    cold = h.runner.num_prefilled
    warm = h.add(prompt(16), max_tokens=4)
    h.run()
    h.assert_exact()
    assert (cold, warm.cached_tokens) == (16, 12)
    assert h.runner.num_prefilled - cold == 4


def test_output_blocks_are_found_by_the_next_turn_of_a_conversation() -> None:
    h = Harness()
    first = h.add(prompt(10), max_tokens=11)
    h.run()
    turn = prompt(10) + h.emitted[first.handle]
    second = h.add([*turn, 5, 6], max_tokens=3)
    h.run()
    h.assert_exact()
    assert second.cached_tokens == 20  # 21 ids of which the last one's KV was never computed


def test_nothing_is_shared_under_another_salt() -> None:
    h = Harness()
    h.add(prompt(16), salt="one")
    h.run()
    other = h.add(prompt(16), salt="two")
    h.run()
    assert other.cached_tokens == 0


def test_choices_of_one_request_share_one_prefill() -> None:
    h = Harness(num_blocks=80, max_step_tokens=64)
    choices = [h.add(prompt(19), max_tokens=6, request_id="r", seed=s) for s in range(5)]
    h.run()
    h.assert_exact()
    assert [c.cached_tokens for c in choices] == [0, 16, 16, 16, 16]
    assert h.runner.num_prefilled == 19 + 4 * 3


def test_choices_go_on_when_the_one_that_computes_the_prompt_is_cancelled() -> None:
    h = Harness(max_chunk_tokens=4)
    choices = [h.add(prompt(19), max_tokens=6, request_id="r", seed=s) for s in range(3)]
    h.step()
    h.scheduler.cancel(choices[0])
    h.scheduler.check()
    h.run()
    for choice in choices[1:]:
        assert h.emitted[choice.handle] == h.expected(choice)


def test_requests_wait_for_a_long_prefix_that_another_computes() -> None:
    h = Harness(num_blocks=200, max_step_tokens=512, max_chunk_tokens=512)
    shared = prompt(300)
    for i in range(4):
        h.add([*shared, i], max_tokens=3)
    h.run()
    h.assert_exact()
    assert h.runner.num_prefilled == 301 + 3


def test_a_resumed_sequence_goes_on_at_its_index() -> None:
    h = Harness()
    full = h.expected(h.add(prompt(7), max_tokens=10, seed=3))
    resumed = h.add(prompt(7), max_tokens=10, seed=3, outputs=full[:4])
    h.run()
    assert h.emitted[resumed.handle] == full


def test_a_sequence_whose_ids_show_its_end_is_not_run() -> None:
    h = Harness()
    done = h.add(prompt(7), max_tokens=2, outputs=[1, 2])
    assert done.state is State.FINISHED
    assert not h.scheduler.has_work


def test_when_memory_is_short_the_latest_is_preempted_and_everyone_ends_right() -> None:
    h = Harness(num_blocks=16, conservativeness=0.0, depth=1)
    for i in range(6):
        h.add(prompt(6, i), max_tokens=24)
    h.run()
    h.assert_exact()
    assert h.num_preempted > 0
    first = min(h.finished, key=lambda handle: list(h.finished).index(handle))
    assert first == 0


def test_a_preempted_sequence_finds_its_blocks_again() -> None:
    h = Harness(num_blocks=16, conservativeness=0.0, depth=0)
    for i in range(3):
        h.add(prompt(8, i), max_tokens=22)
    h.run()
    h.assert_exact()
    assert h.num_preempted > 0
    assert h.runner.num_prefilled < 3 * 8 + h.num_preempted * 20


def test_lower_priority_numbers_go_first() -> None:
    h = Harness(max_running=1, max_step_tokens=32)
    late = h.add(prompt(5, 1), priority=5)
    early = h.add(prompt(5, 2), priority=-1)
    h.run()
    assert list(h.finished) == [early.handle, late.handle]


def test_reserving_all_output_avoids_preemption() -> None:
    h = Harness(num_blocks=16, conservativeness=1.0)
    for i in range(6):
        h.add(prompt(6, i), max_tokens=24)
    h.run()
    h.assert_exact()
    assert h.num_preempted == 0


def test_without_chunks_a_prompt_runs_in_one_step() -> None:
    h = Harness(can_chunk=False, max_step_tokens=20, max_chunk_tokens=20, depth=0)
    h.add(prompt(5), max_tokens=3)
    h.add(prompt(18, 7), max_tokens=3)
    sizes = []
    launch = h.runner.launch

    def spy(plan):  # type: ignore[no-untyped-def]
        sizes.extend(len(c.token_ids) for c in plan.prefills)
        return launch(plan)

    h.runner.launch = spy  # type: ignore[method-assign]
    h.run()
    h.assert_exact()
    assert sizes == [5, 18]


def test_cancelling_with_a_step_under_way_frees_all() -> None:
    h = Harness(depth=2)
    sequences = [h.add(prompt(9, i), max_tokens=20) for i in range(4)]
    for _ in range(4):
        h.step()
    for sequence in sequences:
        h.scheduler.cancel(sequence)
        h.scheduler.check()
    h.run()
    assert not h.finished


def test_more_slots_than_budget_still_runs() -> None:
    h = Harness(max_running=8, max_step_tokens=3, max_chunk_tokens=3)
    for i in range(8):
        h.add(prompt(5, i), max_tokens=5)
    h.run()
    h.assert_exact()
    assert h.largest_batch <= 3


def test_peak_is_reached_when_a_short_one_ends() -> None:
    # Held now 10 and 20; the second ends after 2 tokens, the first after 5.
    assert estimated_peak([(10, 5), (20, 2)]) == 34
    assert estimated_peak([]) == 0


@pytest.mark.parametrize(
    ("num_decodes", "expected"),
    [(0, 8192), (1, 511), (32, 480), (33, 991), (64, 960), (128, 896), (129, 1919), (256, 1792)],
)
def test_a_step_with_decodes_is_small_and_grows_with_them(num_decodes: int, expected: int):
    limits = Limits(max_running=256, max_step_tokens=8192, max_chunk_tokens=8192)
    assert limits.prefill_budget(num_decodes, num_sequences=256) == expected


def test_a_model_whose_steps_hold_more_has_them_hold_more_beside_few_decodes_of_many():
    limits = Limits(max_running=256, max_step_tokens=8192, max_chunk_tokens=8192, least_mixed_tokens=2048)
    assert [limits.prefill_budget(n, 256) for n in (1, 32, 33, 256)] == [2047, 2016, 2015, 1792]
    assert [limits.prefill_budget(n, 32) for n in (1, 32)] == [511, 480]
    assert limits.prefill_budget(1, 33) == 2047
    few_slots = replace(limits, max_running=32)
    assert few_slots.prefill_budget(1, 500) == 511, "who has no slot does not decode"


def test_who_waits_counts_among_the_many(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    budget = Limits.prefill_budget

    def ask(self: Limits, num_decodes: int, num_sequences: int) -> int:
        asked.append(num_sequences)
        return budget(self, num_decodes, num_sequences)

    monkeypatch.setattr(Limits, "prefill_budget", ask)
    h = Harness(max_running=2, max_step_tokens=4, max_chunk_tokens=4)
    for i in range(5):
        h.add(prompt(5, i), max_tokens=5)
    h.run()
    assert asked[0] == 5
    assert asked == sorted(asked, reverse=True)


def test_a_chosen_budget_holds_and_prompts_still_move_beside_many_decodes():
    limits = Limits(1024, 8192, 8192, max_mixed_tokens=512)
    assert [limits.prefill_budget(n, 500) for n in (1, 256, 500)] == [511, 256, 256]
    whole = Limits(1024, 8192, 8192, can_chunk=False, max_mixed_tokens=512)
    assert whole.prefill_budget(100, 100) == 8092
