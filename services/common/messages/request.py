"""Hop 1: what a gateway asks of a router, and a router of a worker."""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Ids, message


def stream_id(request_id: str, choice: int) -> str:
    """The name of one choice's token stream; unique in the whole system."""
    return f"{request_id}:{choice}"


def split_stream_id(stream: str) -> tuple[str, int]:
    request_id, _, choice = stream.rpartition(":")
    return request_id, int(choice)


@message
class SamplingParams:
    """How tokens are drawn. The defaults are OpenAI's; the gateway has checked every range.

    The next token is a function of (prompt ids, ids so far, these parameters, the choice's seed) alone.
    """

    max_tokens: int  # 0: the prompt is computed, and nothing is drawn
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    stop_token_ids: Ids = field(default_factory=list)  # end the stream, beside the model's eos ids
    logit_bias_ids: Ids = field(default_factory=list)
    logit_bias_values: list[float] = field(default_factory=list)
    allowed_token_ids: Ids = field(default_factory=list)  # empty: all
    bad_words: list[Ids] = field(default_factory=list)  # sequences that must not be completed
    num_logprobs: int = -1  # -1: none; 0: the chosen token's; n: also the n likeliest


@message
class StreamParams:
    """How ids become text; the worker hands it on to whichever detokenizer has the stream."""

    stop: list[str] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True


@message
class ChoiceState:
    """One choice that is still to be finished. ``output_ids`` is what the client already owns of it."""

    index: int
    seed: int
    output_ids: Ids = field(default_factory=list)


@message
class GenerateRequest:
    """Everything needed to start a request, or to resume it anywhere after ids were emitted.

    ``attempt`` starts at 1 and rises with every submission; whoever sees a lower one than it knows drops it.
    """

    request_id: str
    attempt: int
    gateway_id: str
    detokenizer_id: str
    model: str
    prompt_ids: Ids
    choices: list[ChoiceState]
    sampling: SamplingParams
    stream: StreamParams = field(default_factory=StreamParams)
    tenant: str = ""  # whose fair share it uses
    weight: float = 1.0  # of that tenant, in the fair share
    priority: int = 0  # lower goes first, as in vLLM
    cache_salt: str = ""  # prefixes are shared only under one salt
    adapter: str = ""
    # Log probabilities of the prompt's own ids, in the frames of the first choice. -1: none; 0: each id's; n: also
    # the n likeliest in its place.
    prompt_logprobs: int = -1
    num_crashes: int = 0  # engines that died while they ran it, since it last got on
    timeout_s: float = 0.0  # time left when this message was sent; 0: none. Relative: clocks differ


@message
class SubmitReply:
    """The answer to a GenerateRequest, from a router or a worker, at once.

    ``accepted``: it is held here, and reported in Holdings until it ends. ``retry``: another one may take it
    (full, draining, not ready). Neither: ``code`` (see errors.py) and ``reason`` are for the client.
    """

    accepted: bool
    holder_id: str
    retry: bool = False
    code: str = ""
    reason: str = ""
    retry_after_s: float = 0.0
    num_accepted: int = 0  # a worker's: requests accepted since its start, this one included
