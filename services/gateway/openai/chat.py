"""/v1/chat/completions: from a body to a submitted request."""

from __future__ import annotations

from typing import Any

import orjson

from services.common.errors import InvalidValue, Unsupported
from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.http.body import validate
from services.gateway.http.generation import GenerationResponse
from services.gateway.openai import params
from services.gateway.openai.chat_render import ChatRenderer
from services.gateway.openai.markup import find_markup
from services.gateway.openai.origin import Origin
from services.gateway.openai.submit import Prepared, respond
from services.gateway.openai.types import ChatBody, Message, Tool


async def create_chat(
    gateway: Gateway, origin: Origin, caller: Caller, raw: dict[str, Any]
) -> GenerationResponse:
    body = validate(ChatBody, raw)
    params.check_supported(raw)
    params.check_model(gateway.model, body.model)
    params.check_stream_options(body)
    num_logprobs = _num_logprobs(body)
    text = render_prompt(gateway, body.messages, body.tools, template_options(body))
    tokenizer = gateway.model.tokenizer
    prompt_ids = await tokenizer.encode(
        text, add_special_tokens=bool(body.add_special_tokens), param="messages"
    )
    if not prompt_ids:
        raise InvalidValue("messages render to an empty prompt", param="messages")
    num_scores = params.prompt_logprobs(body)
    if num_scores >= 0:
        params.check_scores(num_scores, [prompt_ids], 1, "prompt_logprobs")
    markup = find_markup(tokenizer, wants_tools=bool(body.tools) and body.tool_choice != "none")
    new_parser = None
    if markup:
        new_parser = markup.parser_factory(prompt=text, removes_special=body.skip_special_tokens)
    prepared = Prepared(
        body,
        [prompt_ids],
        prompts=[text],
        num_logprobs=num_logprobs,
        default_max_tokens=None,
        keep_special=markup is not None and markup.is_special,
        prompt_logprobs=num_scores,
    )
    last = body.messages[-1]
    echo = flatten(last) if body.echo and last.role == "assistant" else ""
    return await respond(
        gateway,
        origin,
        caller,
        prepared,
        "chatcmpl",
        lambda call: ChatRenderer(call, tokenizer, echo=echo, new_parser=new_parser),
    )


def _num_logprobs(body: ChatBody) -> int:
    if body.top_logprobs is not None:
        if not body.logprobs:
            raise InvalidValue("top_logprobs needs logprobs=true", param="top_logprobs")
        params.ranged("top_logprobs", body.top_logprobs, 0, params.MAX_LOGPROBS)
    return (body.top_logprobs or 0) if body.logprobs else -1


def template_options(body: Any) -> dict[str, Any]:
    """The fields of a chat or tokenize body that go to the template."""
    extra = dict(body.chat_template_kwargs or {})
    effort = getattr(body, "reasoning_effort", None)
    if effort is not None:
        extra.setdefault("reasoning_effort", effort)
    return {
        "add_generation_prompt": body.add_generation_prompt,
        "continue_final_message": body.continue_final_message,
        "extra": extra,
    }


def render_prompt(
    gateway: Gateway, messages: list[Message], tools: list[Tool] | None, options: dict[str, Any]
) -> str:
    """The messages as the model's template words them."""
    template = gateway.model.tokenizer.template
    if template is None:
        raise Unsupported("this model has no chat template; use /v1/completions", param="messages")
    if not messages:
        raise InvalidValue("messages must not be empty", param="messages")
    if options["continue_final_message"] and options["add_generation_prompt"]:
        raise InvalidValue(
            "continue_final_message and add_generation_prompt cannot both be true",
            param="continue_final_message",
        )
    knows_developer = "developer" in template.source
    plain = [_plain(message, knows_developer=knows_developer) for message in messages]
    return template.render(plain, tools=[tool.model_dump() for tool in tools or []], **options)


def flatten(message: Message) -> str:
    """The text of a message; parts are joined by newlines. Raises Unsupported for what is no text."""
    if isinstance(message.content, list):
        for part in message.content:
            if part.text is None:
                raise Unsupported(
                    f"messages: content of type {part.type!r} is not supported", param="messages"
                )
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""


def _plain(message: Message, *, knows_developer: bool) -> dict[str, Any]:
    """A message as templates expect it: text content, tool arguments as objects, absent fields left out."""
    role = "system" if message.role == "developer" and not knows_developer else message.role
    plain: dict[str, Any] = {"role": role, "content": flatten(message)}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            plain[name] = value
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": call.type,
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return plain


def _arguments(text: str) -> Any:
    try:
        return orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidValue(
            f"messages: the arguments of a tool call are not JSON: {error}", param="messages"
        ) from error
