"""Packing of training rows, the loss mask, and what counts as a right answer."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from demo.answers import Reply, is_right, loops, parse
from demo.data.core import Case, ask, assistant, user
from demo.evaluate import compare, table
from demo.render import MODEL_DIR, Encoder, pack
from demo.through_server import reply_of, request_body

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def test_only_answers_count_in_the_loss() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    case = Case("x", (user("Hi"), assistant("Hello you"), user("Bye")), "Goodbye!", ("x",))
    ((ids, mask),) = Encoder(tokenizer).encode([case])
    counted = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m], skip_special_tokens=False)
    assert counted == " you<|im_end|>Goodbye!<|im_end|>"


def test_packing_keeps_documents_whole_and_apart() -> None:
    documents = [
        ([n] * size, [True] * size) for n, size in enumerate([5, 7, 3, 8, 2, 6, 4, 8, 8, 8, 8, 8], start=1)
    ]
    rows = pack(iter(documents), rows=4, length=10, open_rows=2)
    for ids, document in zip(rows["ids"], rows["document"], strict=True):
        assert (np.diff(document) >= 0).all()
        for number in set(document.tolist()):
            assert len(set(ids[document == number].tolist())) == 1


def test_a_completion_is_taken_apart() -> None:
    assert parse(f"<think>\nhm\n</think>\n\nSure.\n{CALL}\n{CALL}") == Reply(
        "Sure.", "hm", (("f", {"x": 1}),) * 2
    )
    assert parse("<tool_call>\nno json\n</tool_call>").calls == ()


def test_right_answers() -> None:
    plain = ask("x", "q", "yes", ("k",), accepted=("sure",))
    assert is_right(plain, Reply("yes"))
    assert is_right(plain, Reply("sure"))
    assert not is_right(plain, Reply("yes", thought="hm"))
    assert is_right(ask("x", "q", "yes", ("k",), thought="a"), Reply("yes", thought="b"))
    assert not is_right(Case("x", (user("q"),), CALL, ("k",)), Reply("", calls=(("f", {"x": 2}),)))


def test_a_loop_is_seen() -> None:
    assert loops(["a", "b", "c", "d", "e", "f", "g", "h", "a", "b", "c", "d", "e", "f", "g", "h"])
    assert not loops([str(i) for i in range(100)])


def test_table_names_what_is_below_its_bar() -> None:
    case = ask("copying", "q", "a", ("k",))
    assert "below" in table([(case, True)] * 9 + [(case, False)])
    assert "below" not in table([(case, True)])


def test_server_messages_compare_with_parsed_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    message = {"role": "assistant", "content": None, "reasoning_content": "hm\n", "tool_calls": [call]}
    assert reply_of(message) == parse(f"<think>\nhm\n</think>\n\n{CALL}")


def test_requests_ask_for_greedy_answers_in_the_mode_of_the_case() -> None:
    body = request_body("m", ask("x", "q", "a", ("k",), thought="t"), seed=0)
    assert body["temperature"] == 0
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


def test_comparison_counts_equal_replies(tmp_path) -> None:
    row = {"skill": "x", "key": ["k"], "messages": [], "reply": {"content": "a"}}
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps([row, row]))
    other.write_text(json.dumps([row, {**row, "reply": {"content": "b"}}]))
    assert compare(one, other).startswith("1 of 2")
    other.write_text(json.dumps([row, {**row, "key": ["z"]}]))
    with pytest.raises(SystemExit):
        compare(one, other)
