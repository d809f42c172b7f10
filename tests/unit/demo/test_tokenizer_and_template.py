"""The tokenizer and the chat template as servers use them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from demo.data.mix import evaluation_cases
from demo.render import MODEL_DIR, TEMPLATE_PATH, Renderer
from demo.tokenizer import CONTROL_TOKENS, MARKUP_TOKENS

TOKENIZER = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Grüße, señor",
        "你好，世界",
        "👩🏽‍🚀🐟 and 🏳️‍🌈",
        "a\n\n\n  b\t c  ",
        "\x00\x01\x7f",
        "x" * 300,
    ],
)
def test_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, *MARKUP_TOKENS])
def test_special_tokens_are_single(token: str) -> None:
    assert len(TOKENIZER.encode(token).ids) == 1


def test_markup_survives_decoding_and_control_tokens_do_not() -> None:
    ids = TOKENIZER.encode("<think>\nhm\n</think>\n\n<tool_call><|im_end|>").ids
    assert TOKENIZER.decode(ids) == "<think>\nhm\n</think>\n\n<tool_call>"


def test_digits_are_tokens_of_their_own() -> None:
    assert TOKENIZER.encode("2048").tokens == ["2", "0", "4", "8"]


def test_template_is_the_same_under_transformers_and_plain_jinja2() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    shipped = json.loads((MODEL_DIR / "tokenizer_config.json").read_text())["chat_template"]
    renderer = Renderer(shipped)
    for case in evaluation_cases(0, 3):
        for thinking in (False, True):
            ours = renderer.prompt(case.messages, case.tools, thinking)
            theirs = tokenizer.apply_chat_template(
                list(case.messages),
                tools=list(case.tools) or None,
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=thinking,
            )
            assert ours == theirs


def test_both_places_of_the_template_agree_with_the_source() -> None:
    source = TEMPLATE_PATH.read_text()
    assert (MODEL_DIR / "chat_template.jinja").read_text() == source
    assert json.loads((MODEL_DIR / "tokenizer_config.json").read_text())["chat_template"] == source


def test_tool_turns_render_in_the_hermes_form() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "1", "content": "two"},
    ]
    text = Renderer().prompt(messages)
    markup = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{markup}\n{markup}<|im_end|>\n" in text
    responses = "\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    assert f"<|im_start|>user{responses}<|im_end|>\n" in text


def test_reasoning_of_earlier_turns_is_left_out() -> None:
    messages = [
        {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nHello"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    text = Renderer().prompt(messages, thinking=True)
    assert (
        text
        == "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
