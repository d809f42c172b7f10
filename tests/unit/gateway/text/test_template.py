from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from services.common.errors import ConfigError, ShoalError
from services.gateway.text.template import ChatTemplate, TemplateFailure
from tests.fakes.tiny_model import CHAT_TEMPLATE, make_tokenizer

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Grüße\n  "},
    {"role": "assistant", "content": "Ja "},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "ä <b>", "parameters": {}}}]


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("add", [True, False])
def test_renders_as_transformers_does(tmp_path: Path, tools: Any, add: bool) -> None:
    reference = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path))
    expected = reference.apply_chat_template(CHAT, tools=tools, add_generation_prompt=add, tokenize=False)
    template = ChatTemplate(CHAT_TEMPLATE, {})
    assert template.render(CHAT, tools=tools, add_generation_prompt=add) == expected


def test_the_last_message_is_continued_where_it_ends(tmp_path: Path) -> None:
    reference = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path))
    expected = reference.apply_chat_template(CHAT, continue_final_message=True, tokenize=False)
    template = ChatTemplate(CHAT_TEMPLATE, {})
    text = template.render(CHAT, add_generation_prompt=False, continue_final_message=True)
    assert text == expected
    assert text.endswith("assistant\nJa ")
    assert CHAT[-1]["content"] == "Ja ", "the caller's messages are left alone"


def test_loop_controls_generation_tags_and_extras_work() -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ bos_token }}{{ mood }}{{ strftime_now('%Y') | length }}{{ {'b': 1, 'a': 2} | tojson(indent=1) }}"
    )
    text = ChatTemplate(source, {"bos_token": "<s>"}).render(CHAT, extra={"mood": "!"})
    assert text == 'Be <brief> & kind.<s>!4{\n "b": 1,\n "a": 2\n}'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no such role') }}",
        "{{ messages[9].content.x }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{{ 'x' * 10 ** 12 }}",
    ],
)
def test_a_template_that_fails_is_a_bad_request_with_its_words(source: str) -> None:
    with pytest.raises(TemplateFailure) as caught:
        ChatTemplate(source, {}).render(CHAT)
    assert caught.value.status == 400
    assert isinstance(caught.value, ShoalError)


def test_a_template_that_is_no_jinja_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError):
        ChatTemplate("{% if %}", {})
