"""Chat templates, rendered as Hugging Face tokenizers render them, in Jinja's sandbox."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.common.errors import BadRequest, ConfigError, InvalidValue

# Marks the end of the last message, so that everything the template adds after it can be cut off.
_CONTINUE_MARK = "\u2063SHOAL-CONTINUE\u2063"


class TemplateFailure(BadRequest):
    """The chat template refused the messages, or could not cope with them."""

    code = "chat_template_error"


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; rendering passes it through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class ChatTemplate:
    """A compiled template. ``tokens`` are the special tokens it may name: bos_token, eos_token, ..."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self.source = source
        self._tokens = tokens
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ConfigError(f"the chat template is not valid Jinja: {error}") from error

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """The prompt's text. Raises TemplateFailure with the template's own message."""
        if continue_final_message:
            messages = _mark_end(messages)
        values = {**self._tokens, **(extra or {})}
        values |= {
            "messages": messages,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
        }
        values.setdefault("documents", None)
        try:
            text = self._template.render(values)
        except Exception as error:  # a template is a program: it may raise anything
            raise TemplateFailure(
                f"the chat template failed: {error or type(error).__name__}", param="messages"
            ) from error
        return _cut_at_mark(text, messages) if continue_final_message else text


def _mark_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = copy.deepcopy(messages[-1])
    if not isinstance(last.get("content"), str):
        raise InvalidValue("continue_final_message needs a last message with text content", param="messages")
    last["content"] += _CONTINUE_MARK
    return [*messages[:-1], last]


def _cut_at_mark(text: str, messages: list[dict[str, Any]]) -> str:
    at = text.rfind(_CONTINUE_MARK)
    if at < 0:
        raise TemplateFailure(
            "the chat template leaves out the message to be continued", param="continue_final_message"
        )
    return text[:at]
