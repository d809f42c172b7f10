from __future__ import annotations

import pytest

from services.common.messages import frames
from services.common.messages.control import Cancel, Replay
from services.common.messages.frames import PromptLogprobs, RowLogprobs
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams
from services.worker.control import streams
from services.worker.control.kv_log import KvLog
from services.worker.control.peers import GatewayWatch
from services.worker.control.streams import Admission, StreamTable
from services.worker.engine.messages import StepOutput


def request(
    request_id: str = "r", attempt: int = 1, *, outputs: tuple[list[int], ...] = ([],), **fields: object
) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        attempt=attempt,
        gateway_id=str(fields.get("gateway_id", "g")),
        detokenizer_id=str(fields.get("detokenizer_id", "d")),
        model="m",
        prompt_ids=list(range(40)),
        choices=[ChoiceState(i, seed=i, output_ids=ids) for i, ids in enumerate(outputs)],
        sampling=SamplingParams(
            max_tokens=int(str(fields.get("max_tokens", 50))),
            num_logprobs=int(str(fields.get("num_logprobs", -1))),
        ),
    )


def output(*rows: tuple[int, int, list[int], int]) -> StepOutput:
    """Rows of (handle, first, ids, finish)."""
    made = StepOutput()
    for row, (handle, first, ids, finish) in enumerate(rows):
        made.handles.append(handle)
        made.first.append(first)
        made.counts.append(len(ids))
        made.ids += ids
        if finish:
            made.finish[row] = finish
    return made


@pytest.fixture
def table() -> StreamTable:
    return StreamTable("w", retention_s=30.0)


def test_one_frame_for_each_detokenizer_whatever_the_number_of_streams(table: StreamTable) -> None:
    handles = []
    for i in range(6):
        made, _ = table.admit(request(f"r{i}", detokenizer_id=f"d{i % 2}"))
        handles += made
    applied = table.apply(output(*((h, 0, [h], 0) for h in handles)), now=0.0)
    assert sorted(applied.frames) == ["d0", "d1"]
    assert [len(frame.streams) for frame in applied.frames.values()] == [3, 3]
    table.check()


def test_only_the_first_row_of_an_attempt_carries_stream_info_with_the_prior_ids(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(attempt=2, outputs=([7, 8],)))
    first = table.apply(output((handle, 2, [9], 0)), now=0.0).frames["d"]
    second = table.apply(output((handle, 3, [10], 0)), now=0.0).frames["d"]
    assert first.infos[0].prior_ids == [7, 8]
    assert first.infos[0].prompt_tail == list(range(24, 40))
    assert (first.first, first.ids, second.first, second.infos) == ([2], [9], [3], {})


def test_replay_rebuilds_the_stream_from_index_zero_at_the_new_detokenizer(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(attempt=2, outputs=([7, 8],)))
    table.apply(output((handle, 2, [9, 10], 0)), now=0.0)
    (frame,) = table.replay(Replay(["r:0"], [2], "other"))
    assert (frame.first, frame.ids, frame.infos[0].prior_ids) == ([0], [7, 8, 9, 10], [])
    assert "other" in table.apply(output((handle, 4, [11], 0)), now=0.0).frames


def test_replay_of_another_attempt_or_of_nothing_says_nothing(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(attempt=2))
    assert table.replay(Replay(["r:0", "x:0"], [2, 1], "d2")) == []
    table.apply(output((handle, 0, [1], 0)), now=0.0)
    assert table.replay(Replay(["r:0"], [1], "d2")) == []


def test_a_long_stream_is_replayed_in_several_frames(table: StreamTable) -> None:
    (handle,), _ = table.admit(request())
    ids = list(range(20_000))
    table.apply(output((handle, 0, ids, frames.LENGTH)), now=0.0)
    found = table.replay(Replay(["r:0"], [1], "d2"))
    assert [i for frame in found for i in frame.ids] == ids
    assert [frame.finish for frame in found] == [[0], [0], [frames.LENGTH]]
    assert [bool(frame.infos) for frame in found] == [True, False, False]


def test_replayed_log_probabilities_stand_by_their_ids(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(attempt=2, outputs=([7],), num_logprobs=1))
    for index in (1, 2):
        step = output((handle, index, [index], 0))
        step.logprobs[0] = RowLogprobs([-float(index)], 1, [index], [-float(index)])
        table.apply(step, now=0.0)
    (frame,) = table.replay(Replay(["r:0"], [2], "d2"))
    assert frame.logprobs[0] == RowLogprobs([0.0, -1.0, -2.0], 1, [0, 1, 2], [0.0, -1.0, -2.0])


def test_attempts_fence(table: StreamTable) -> None:
    old, _ = table.admit(request(attempt=2))
    assert table.classify("r", 1) is Admission.STALE
    assert table.classify("r", 2) is Admission.DUPLICATE
    assert table.classify("r", 3) is Admission.NEW
    _, dropped = table.admit(request(attempt=3))
    assert dropped == old
    assert table.apply(output((old[0], 0, [5], 0)), now=0.0).frames == {}
    table.check()


def test_a_cancel_that_overtakes_its_request_keeps_it_out(table: StreamTable) -> None:
    table.cancel(Cancel(request_ids=["r"], attempts=[1]), now=0.0)
    assert table.classify("r", 1) is Admission.ENDED
    assert table.classify("r", 2) is Admission.NEW


def test_a_cancel_of_a_lower_attempt_does_not_touch_a_higher(table: StreamTable) -> None:
    table.admit(request(attempt=2))
    cancel = Cancel(request_ids=["r"], attempts=[1], streams=["r:0"], stream_attempts=[1])
    assert table.cancel(cancel, now=0.0) == []
    assert table.num_live == 1


def test_a_cancelled_request_is_forgotten_and_a_cancelled_stream_can_be_replayed(table: StreamTable) -> None:
    (one,), _ = table.admit(request("one"))
    (two,), _ = table.admit(request("two"))
    table.apply(output((one, 0, [1], 0), (two, 0, [2], 0)), now=0.0)
    cancel = Cancel(request_ids=["one"], attempts=[1], streams=["two:0"], stream_attempts=[1])
    assert sorted(table.cancel(cancel, now=0.0)) == [one, two]
    held = table.holdings("g")
    assert (held.request_ids, held.finished, held.next_index) == (["two"], [1], [1])
    assert table.replay(Replay(["two:0"], [1], "d2"))[0].ids == [2]
    table.check()


def test_ended_streams_are_kept_for_the_retention_and_no_longer(table: StreamTable) -> None:
    (handle,), _ = table.admit(request())
    table.apply(output((handle, 0, [1], frames.STOP)), now=10.0)
    table.expire(now=39.0)
    assert table.holdings("g").finished == [1]
    (frame,) = table.replay(Replay(["r:0"], [1], "d2"))
    assert (frame.finish, frame.stop_ids) == ([frames.STOP], {0: 1})
    table.expire(now=41.0)
    assert (table.num_held, table.holdings("g").request_ids) == (0, [])
    assert table.classify("r", 1) is Admission.ENDED
    table.check()


def test_bounce_gives_back_what_has_not_ended_by_gateway(table: StreamTable) -> None:
    (done,), _ = table.admit(request("done"))
    two_choices, _ = table.admit(request("two", outputs=([], [])))
    table.admit(request("other", attempt=4, gateway_id="h"))
    table.apply(output((done, 0, [1], frames.LENGTH), (two_choices[0], 0, [1], frames.LENGTH)), now=0.0)
    bounced, handles = table.bounce("drain")
    assert (bounced["g"].request_ids, bounced["h"].attempts) == (["two"], [4])
    assert len(handles) == 2
    assert table.holdings("g").request_ids == ["done"]
    table.check()


def test_a_bounce_says_which_requests_are_suspected(table: StreamTable) -> None:
    table.admit(request("waits"))
    (handle, other), _ = table.admit(request("runs", outputs=([], [])))
    bounced, _ = table.bounce("the engine died", [other])
    assert dict(zip(bounced["g"].request_ids, bounced["g"].suspects, strict=True)) == {"waits": 0, "runs": 1}
    assert handle != other


def test_requests_of_a_dead_gateway_are_freed(table: StreamTable) -> None:
    table.admit(request("a", gateway_id="g"))
    (handle,), _ = table.admit(request("b", gateway_id="h"))
    assert table.drop_gateway("h") == [handle]
    assert table.gateways == ["g"]
    table.check()


def test_uncomputed_tokens_count_a_prompt_once_for_all_choices(table: StreamTable) -> None:
    handles, _ = table.admit(request(outputs=([1], [1, 2])))
    assert table.num_uncomputed_tokens == 40 + 1 + 2
    table.apply(output((handles[0], 1, [5], 0)), now=0.0)
    assert table.num_uncomputed_tokens == 2
    table.check()


def test_snapshots_come_in_pages_of_one_moment() -> None:
    log = KvLog("w", 7, max_payload=4096 + 32)
    names = [bytes([i]) * 16 for i in range(5)]
    assert log.apply(b"".join(names), b"").seq == 1
    pages = [log.snapshot(0)]
    assert log.apply(b"", names[0]).seq == 2
    pages += [log.snapshot(1), log.snapshot(2)]
    assert [(p.seq, p.num_pages) for p in pages] == [(1, 3)] * 3
    assert b"".join(p.hashes for p in pages) == b"".join(names)
    assert log.snapshot(0).seq == 2


def test_gateways_die_of_silence_only_while_the_bus_is_heard() -> None:
    watch = GatewayWatch(lease_s=1.0)
    watch.on_own_beat(0.0)
    watch.on_gateway("g", 0.0)
    for t in range(1, 5):
        watch.on_own_beat(t * 0.9)
    assert watch.dead(["g"], 3.7) == ["g"]
    watch.on_gateway("h", 4.0)
    assert watch.dead(["h"], 20.0) == []  # nothing was heard for long, not even itself
    watch.on_own_beat(20.1)
    assert watch.dead(["h"], 20.2) == []


def scores(first: int, count: int) -> PromptLogprobs:
    """A part whose numbers tell their places."""
    values = b"".join(i.to_bytes(4, "little") for i in range(first, first + count))
    return PromptLogprobs(first, values, values, 2, values + values, values + values)


def test_prompt_scores_go_ahead_of_the_ids_and_stand_on_their_own(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(attempt=2, outputs=([7, 8],)))
    step = output((handle, 2, [9], 0))
    step.prompt_logprobs[handle] = scores(1, 39)
    (_, scored), (_, drawn) = table.apply(step, now=0.0).outgoing
    assert (scored.first, scored.counts, scored.infos[0].prior_ids) == ([0], [0], [])
    assert scored.prompt_logprobs == {0: scores(1, 39)}
    assert (drawn.first, drawn.infos[0].prior_ids, drawn.prompt_logprobs) == ([2], [7, 8], {})


def test_prompt_scores_are_replayed_before_and_after_the_first_id_in_frames_of_a_bounded_size(
    table: StreamTable,
) -> None:
    (handle,), _ = table.admit(request())
    step = output()
    step.prompt_logprobs[handle] = whole = scores(1, 20_000)
    assert len(table.apply(step, now=0.0).outgoing) == 3
    found = table.replay(Replay(["r:0"], [1], "d2"))
    assert [frame.ids for frame in found] == [[], [], []]
    table.apply(output((handle, 0, [5], frames.LENGTH)), now=0.0)
    found = table.replay(Replay(["r:0"], [1], "d2"))
    assert [frame.ids for frame in found] == [[], [], [], [5]]
    parts = [frame.prompt_logprobs[0] for frame in found[:3]]
    assert all(part.is_whole and part.count <= 8192 for part in parts)
    assert [part.first for part in parts] == [1, 8193, 16385]
    assert b"".join(part.top_values for part in parts) == whole.top_values


def test_with_max_tokens_0_a_stream_ends_without_the_id_that_was_drawn(table: StreamTable) -> None:
    (handle,), _ = table.admit(request(max_tokens=0, num_logprobs=1))
    step = output((handle, 0, [5], frames.STOP))
    step.logprobs[0] = RowLogprobs([-1.0], 1, [5], [-1.0])
    frame = table.apply(step, now=0.0).frames["d"]
    assert (frame.counts, frame.ids, frame.finish, frame.logprobs) == ([0], [], [frames.LENGTH], {})
    (replayed,) = table.replay(Replay(["r:0"], [1], "d2"))
    assert (replayed.ids, replayed.finish) == ([], [frames.LENGTH])


def test_ended_streams_are_forgotten_early_when_their_prompt_scores_take_too_much(
    table: StreamTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_RETAINED_BYTES", 5 * scores(1, 39).num_bytes)
    for i in range(8):
        (handle,), _ = table.admit(request(f"r{i}"))
        step = output((handle, 0, [5], frames.LENGTH))
        step.prompt_logprobs[handle] = scores(1, 39)
        table.apply(step, now=float(i))
    table.expire(now=8.0)
    table.check()
    assert table.num_held == 5
    assert table.classify("r2", 1) is Admission.ENDED
    assert table.classify("r3", 1) is Admission.DUPLICATE
