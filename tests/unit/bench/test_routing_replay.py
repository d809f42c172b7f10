import json

import pytest

from bench.routing_replay import METHODS, Replay, WorkerShape
from bench.routing_trace import ChatShape, chat_trace, read_trace

SHAPE = WorkerShape(cache_blocks=2000, max_running=8)
CHATS = ChatShape(num_sessions=40, sessions_per_s=20, think_s=(0.1, 1.0), user_tokens=(20, 200))


def test_every_request_ends_and_the_cache_aware_policy_finds_most():
    sessions = chat_trace(CHATS, seed=1)
    results = {method: Replay(method, 4, SHAPE, 0).run(sessions).summary() for method in METHODS}
    num_turns = sum(map(len, sessions))
    assert {result["requests"] for result in results.values()} == {num_turns}
    others = max(results[method]["hit_rate"] for method in METHODS if method != "cache_aware")
    assert results["cache_aware"]["hit_rate"] > others + 0.1


def test_a_replay_repeats_exactly():
    sessions = chat_trace(CHATS, seed=2)
    first, second = (Replay("cache_aware", 3, SHAPE, 7).run(sessions).summary() for _ in range(2))
    assert first == second


def test_both_forms_of_json_lines_are_read(tmp_path):
    path = tmp_path / "trace.jsonl"
    records = [
        {"at_s": 1.5, "prompt_ids": [1, 2], "output_tokens": 3, "tenant": "a"},
        {"timestamp": 2500, "input_length": 700, "output_length": 4, "hash_ids": [46, 47]},
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (own,), (mooncake,) = read_trace(path)
    assert (own.at_s, own.prompt_ids, own.num_output, own.tenant) == (1.5, [1, 2], 3, "a")
    assert (mooncake.at_s, mooncake.prompt_ids) == (2.5, [46] * 512 + [47] * 188)


def test_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 1, "prompt_ids": [], "output_tokens": 1}\n{"at_s": 1}\n')
    with pytest.raises(ValueError, match=r"trace.jsonl:2: KeyError\('prompt_ids'\)"):
        read_trace(path)
