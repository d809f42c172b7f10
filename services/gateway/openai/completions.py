"""/v1/completions: from a body to submitted requests, one for each prompt."""

from __future__ import annotations

from typing import Any

from services.common.errors import InvalidValue
from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.http.body import validate
from services.gateway.http.generation import GenerationResponse
from services.gateway.openai import params
from services.gateway.openai.completion_render import CompletionRenderer
from services.gateway.openai.origin import Origin
from services.gateway.openai.submit import Prepared, respond
from services.gateway.openai.types import CompletionBody

MAX_PROMPTS = 2048


async def create_completion(
    gateway: Gateway, origin: Origin, caller: Caller, raw: dict[str, Any]
) -> GenerationResponse:
    body = validate(CompletionBody, raw)
    params.check_supported(raw)
    params.check_model(gateway.model, body.model)
    params.check_stream_options(body)
    shown = params.num_choices(body, gateway.limits)
    made = _best_of(body, shown, gateway.limits)
    num_logprobs = (
        -1 if body.logprobs is None else params.ranged("logprobs", body.logprobs, 0, params.MAX_LOGPROBS)
    )
    num_scores = max(params.prompt_logprobs(body), num_logprobs if body.echo else -1)
    prompts = await _prompts(gateway, body, made)
    if num_scores >= 0:
        param = "logprobs" if body.echo else "prompt_logprobs"
        params.check_scores(num_scores, [ids for _, ids in prompts], shown, param)
    tokenizer = gateway.model.tokenizer
    echoes = [p if isinstance(p, str) else tokenizer.decode(p) for p, _ in prompts] if body.echo else []
    prepared = Prepared(
        body,
        [ids for _, ids in prompts],
        prompts=[prompt for prompt, _ in prompts],
        num_logprobs=max(num_logprobs, 0) if made > shown else num_logprobs,
        wants_logprobs=num_logprobs >= 0,
        num_choices=made,
        default_max_tokens=params.COMPLETION_MAX_TOKENS,
        prompt_logprobs=num_scores,
        least_tokens=0 if body.echo or num_scores >= 0 else 1,
    )
    return await respond(
        gateway,
        origin,
        caller,
        prepared,
        "cmpl",
        lambda call: CompletionRenderer(
            call,
            tokenizer,
            echoes=echoes,
            best_of=made,
            num_logprobs=max(num_logprobs, 0),
            prompt_logprobs=body.prompt_logprobs,
        ),
    )


def _best_of(body: CompletionBody, shown: int, limits: params.Limits) -> int:
    """How many choices are made for each prompt; the ``shown`` best are given out."""
    if body.best_of is None:
        return shown
    made = params.ranged("best_of", body.best_of, shown, limits.max_choices)
    if made > shown and body.stream:
        raise InvalidValue("best_of over n cannot be streamed", param="best_of")
    return made


async def _prompts(
    gateway: Gateway, body: CompletionBody, made: int
) -> list[tuple[str | list[int], list[int]]]:
    """Each prompt as it was sent, and its ids."""
    prompt = body.prompt
    items: list[Any] = (
        [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    )
    if not items:
        raise InvalidValue("prompt must not be empty", param="prompt")
    if len(items) * made > MAX_PROMPTS:
        raise InvalidValue(
            f"prompts times choices may be {MAX_PROMPTS}, not {len(items) * made}", param="prompt"
        )
    prompts: list[tuple[str | list[int], list[int]]] = []
    for item in items:
        if isinstance(item, str):
            add = body.add_special_tokens is not False
            ids = await gateway.model.tokenizer.encode(item, add_special_tokens=add)
        else:
            ids = params.check_ids("prompt", item, gateway.model)
        if not ids:
            raise InvalidValue("prompt must not be empty", param="prompt")
        prompts.append((item, ids))
    return prompts
