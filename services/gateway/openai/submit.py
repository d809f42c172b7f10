"""The part that both generation endpoints share: limits, Specs, the response that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.http.generation import GenerationResponse, Renderer
from services.gateway.journal import Journal
from services.gateway.life.spec import MAX_SEED, Restored, Spec
from services.gateway.observe import GenerationObserver
from services.gateway.openai import params
from services.gateway.openai.origin import Origin
from services.gateway.openai.render import Call
from services.gateway.openai.types import GenerationBody
from services.gateway.retention import ResumedRenderer


@dataclass(slots=True)
class Prepared:
    """A checked body and its tokenized prompts."""

    body: GenerationBody
    prompt_ids: list[list[int]]
    prompts: Sequence[str | list[int]]  # as they came, templates applied
    num_logprobs: int  # -1: none
    default_max_tokens: int | None  # None: what the context has left
    wants_logprobs: bool | None = None  # None: when num_logprobs says so
    num_choices: int | None = None  # made per prompt, where that is more than are shown
    keep_special: bool = False
    prompt_logprobs: int = -1  # as in GenerateRequest
    least_tokens: int = 1  # that may be asked for


async def respond(
    gateway: Gateway,
    origin: Origin,
    caller: Caller,
    prepared: Prepared,
    prefix: str,
    renderer: Callable[[Call], Renderer],
) -> GenerationResponse:
    """Raises a ShoalError for whatever is not allowed, before anything was submitted."""
    resume = origin.resume
    if resume is not None:
        prepared.prompt_ids = resume.prompts
    specs = await _specs(gateway, caller, prepared, origin)
    call = _call(gateway, prepared, f"{prefix}-{origin.request_id}", int(origin.created))
    clock = asyncio.get_running_loop().time
    stream = bool(prepared.body.stream)
    retention_s = params.retention_of(prepared.body, gateway.limits)
    wording = renderer(call)
    transcript = gateway.transcript(origin.request_id)
    restored: list[Restored] = []
    if resume is None:
        caller.charge_prompt(call.prompt_tokens, clock())
        if transcript is not None:
            transcript.on_prompts(prepared.prompts)
    else:
        wording = ResumedRenderer(wording, resume.positions)
        restored = resume.restored(call.num_choices, wants_logprobs=call.wants_logprobs)
        for i, spec in enumerate(specs):
            if not resume.misses_beginning(i, call.num_choices):
                spec.prompt_logprobs = -1
    observer = GenerationObserver(
        origin.request_id,
        gateway.metrics,
        caller,
        clock,
        prompt_tokens=call.prompt_tokens,
        stream=stream,
        transcript=transcript,
    )
    headers = {"X-Request-Id": origin.request_id}
    journal = None
    if retention_s and (record := origin.record(caller, prepared.prompt_ids)):
        journal = Journal(origin.request_id, record, retention_s, gateway.logs)
        headers["X-Stream-Path"] = f"/v1/streams/{origin.request_id}"
    return GenerationResponse(
        lambda: gateway.client.submit(specs, restored),
        wording,
        observer,
        stream=stream,
        journal=journal,
        keep_alive_s=gateway.keep_alive_s,
        headers=headers,
    )


def _call(gateway: Gateway, prepared: Prepared, name: str, created: int) -> Call:
    body, options = prepared.body, prepared.body.stream_options
    shown = prepared.wants_logprobs
    return Call(
        id=name,
        created=created,
        model=gateway.model.name,
        prompt_ids=prepared.prompt_ids,
        num_choices=params.num_choices(body, gateway.limits),
        stop_token_ids=body.stop_token_ids or [],
        include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.continuous_usage_stats),
        return_token_ids=bool(body.return_token_ids),
        wants_logprobs=prepared.num_logprobs >= 0 if shown is None else shown,
    )


async def _specs(gateway: Gateway, caller: Caller, prepared: Prepared, origin: Origin) -> list[Spec]:
    body, limits, model = prepared.body, gateway.limits, gateway.model
    shown = params.num_choices(body, limits)
    stream = params.stream_params(body, params.stop_strings(body, limits), keep_special=prepared.keep_special)
    seed, priority = params.seed_of(body), params.priority_of(body)
    timeout_s = params.timeout_of(body, limits)
    made, max_len = prepared.num_choices or shown, gateway.max_len()
    tokens = [
        params.output_limit(body, len(p), max_len, prepared.default_max_tokens, least=prepared.least_tokens)
        for p in prepared.prompt_ids
    ]
    sampling = await params.sampling_params(
        body, model, limits, max_tokens=min(tokens), num_logprobs=prepared.num_logprobs
    )
    specs: list[Spec] = []
    for i, (prompt_ids, max_tokens) in enumerate(zip(prepared.prompt_ids, tokens, strict=True)):
        specs.append(
            Spec(
                origin.request_id if len(prepared.prompt_ids) == 1 else f"{origin.request_id}-p{i}",
                prompt_ids,
                replace(sampling, max_tokens=max_tokens),
                stream,
                num_choices=made,
                seed=(origin.seed + i * made) & MAX_SEED if seed is None else seed,
                tenant=caller.tenant,
                weight=caller.weight,
                priority=priority,
                cache_salt=caller.cache_salt + (body.cache_salt or ""),
                prompt_logprobs=prepared.prompt_logprobs,
                timeout_s=timeout_s,
                waited_s=origin.age_s(),
            )
        )
    return specs
