"""Which structure a model puts into its text, as its vocabulary and template tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.parsers.markup import CALL, END_THINK, MARKUP, THINK, MarkupParser
from services.gateway.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Markup:
    """``is_special``: some of the tags are special tokens, so the detokenizer must leave special tokens in."""

    thinking: bool
    tools: bool
    is_special: bool
    other_special: tuple[str, ...]

    def parser_factory(self, *, prompt: str, removes_special: bool) -> Callable[[], MarkupParser]:
        """Parsers for the choices of one request whose rendered prompt is given."""
        removed = self.other_special if self.is_special and removes_special else ()
        starts_thinking = self.thinking and prompt.rstrip().endswith(THINK)
        return lambda: MarkupParser(
            thinking=self.thinking, tools=self.tools, removed=removed, starts_thinking=starts_thinking
        )


def find_markup(tokenizer: TextTokenizer, *, wants_tools: bool) -> Markup | None:
    """None for a model without any; its text is passed on untouched."""
    template = tokenizer.template.source if tokenizer.template else ""
    thinking = all(tokenizer.id_of(tag) is not None for tag in (THINK, END_THINK))
    tools = wants_tools and (tokenizer.id_of(CALL) is not None or CALL in template)
    if not thinking and not tools:
        return None
    special = tokenizer.special_tokens
    return Markup(
        thinking,
        tools,
        is_special=any(tag in special for tag in MARKUP),
        other_special=tuple(sorted(special.difference(MARKUP))),
    )
