"""From the request as the bus brings it to what the scheduler and the runner take. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.common.blockhash import chain_root
from services.common.errors import ContextLengthExceeded, InvalidValue, Unsupported
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams
from services.worker.cache import HashChain
from services.worker.engine.messages import EngineInfo, Submit
from services.worker.runner.plan import MAX_BAD_WORD_TOKENS, SlotSampling
from services.worker.scheduler import Sequence

# One crash can be anybody's, or nobody's: whoever was in the batch goes on as before. Two are worth a closer look.
CRASHES_TO_SUSPECT = 2
MAX_TOP_LOGPROBS = 100  # in place of one id; gateways allow fewer


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's own settings. Plain values: it travels to rank 0 as a msgpack map."""

    max_running: int = 256
    max_step_tokens: int = 8192
    max_mixed_tokens: int = 0
    max_chunk_tokens: int = 8192
    can_chunk: bool = True
    conservativeness: float = 0.5
    share_prefixes: bool = True  # False: only choices of one request share
    max_request_tokens: int = 0  # 0: the model's limit
    eos_ids: tuple[int, ...] = ()  # empty: the model's


def check_request(request: GenerateRequest, info: EngineInfo) -> None:
    """Raises the ShoalError for a request that this engine could never run.

    A gateway has checked the same; this keeps a wrong one from taking the whole batch with it.
    """
    sampling = request.sampling
    if request.adapter:
        raise Unsupported(f"adapter {request.adapter!r}: LoRA is not there yet", param="model")
    if not request.prompt_ids or not request.choices or sampling.max_tokens < 0:
        raise InvalidValue("a request needs a prompt, a choice and max_tokens of at least 0")
    if request.prompt_logprobs > MAX_TOP_LOGPROBS or sampling.num_logprobs > MAX_TOP_LOGPROBS:
        raise InvalidValue(f"log probabilities are given for up to {MAX_TOP_LOGPROBS} ids", param="logprobs")
    total = len(request.prompt_ids) + sampling.max_tokens
    if total > info.max_request_tokens:
        raise ContextLengthExceeded(
            f"prompt ({len(request.prompt_ids)} tokens) and max_tokens ({sampling.max_tokens}) together are over "
            f"the {info.max_request_tokens} tokens that this worker holds for one request",
            param="max_tokens",
        )
    for param, ids in _ids_of(request):
        if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
            raise InvalidValue(f"{param}: token ids are 0 to {info.vocab_size - 1}", param=param)
    if len(sampling.logit_bias_ids) != len(sampling.logit_bias_values):
        raise InvalidValue("logit_bias: as many ids as values", param="logit_bias")
    if not all(1 <= len(word) <= MAX_BAD_WORD_TOKENS for word in sampling.bad_words):
        raise InvalidValue(f"bad_words: a word has 1 to {MAX_BAD_WORD_TOKENS} tokens", param="bad_words")
    numbers = (
        sampling.temperature,
        sampling.top_p,
        sampling.min_p,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.repetition_penalty,
        *sampling.logit_bias_values,
    )
    if not all(map(math.isfinite, numbers)) or sampling.temperature < 0 or sampling.repetition_penalty <= 0:
        raise InvalidValue("sampling parameters must be finite and within their ranges")


def _ids_of(request: GenerateRequest) -> Iterable[tuple[str, list[int]]]:
    sampling = request.sampling
    yield "prompt", request.prompt_ids
    yield "stop_token_ids", sampling.stop_token_ids
    yield "logit_bias", sampling.logit_bias_ids
    yield "allowed_token_ids", sampling.allowed_token_ids
    for ids in sampling.bad_words:
        yield "bad_words", ids
    for choice in request.choices:
        yield "output_ids", choice.output_ids


def slot_sampling(params: SamplingParams, choice: ChoiceState, stop_ids: Iterable[int]) -> SlotSampling:
    return SlotSampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=choice.seed,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logprobs=None if params.num_logprobs < 0 else params.num_logprobs,
        logit_bias=dict(zip(params.logit_bias_ids, params.logit_bias_values, strict=True)),
        allowed_token_ids=params.allowed_token_ids or None,
        bad_words=params.bad_words,
        min_tokens=params.min_tokens,
        stop_ids=sorted(stop_ids),
    )


class SequenceFactory:
    """Makes a request's sequences, and numbers them by arrival."""

    def __init__(
        self,
        block_size: int,
        eos_ids: Iterable[int],
        *,
        share_prefixes: bool,
        max_shared_prompt: int | None = None,
    ) -> None:
        """`max_shared_prompt`: see RunnerInfo."""
        self._block_size, self._eos_ids, self._share_prefixes = block_size, frozenset(eos_ids), share_prefixes
        self._max_shared_prompt = max_shared_prompt
        self._arrivals = itertools.count()

    def make(self, submit: Submit) -> Iterator[Sequence]:
        request = submit.request
        params = request.sampling
        stop_ids = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stop_ids |= self._eos_ids
        # Without sharing, a request's own name is part of the salt: only its choices and its own restarts match.
        salt = request.cache_salt if self._share_prefixes else f"{request.cache_salt}\0{request.request_id}"
        if self._max_shared_prompt is not None and len(request.prompt_ids) > self._max_shared_prompt:
            salt = f"{salt}\0{len(request.prompt_ids)}"
        root = chain_root(adapter=request.adapter, cache_salt=salt)
        for i, (handle, choice) in enumerate(zip(submit.handles, request.choices, strict=True)):
            yield Sequence(
                handle=handle,
                request_id=request.request_id,
                ids=request.prompt_ids + choice.output_ids,
                num_prompt=len(request.prompt_ids),
                max_tokens=max(1, params.max_tokens),  # a prompt's last position always draws
                sampling=slot_sampling(params, choice, stop_ids),
                order=(request.priority, next(self._arrivals)),
                chain=HashChain(root, self._block_size),
                is_suspect=request.num_crashes >= CRASHES_TO_SUSPECT,
                stop_ids=stop_ids,
                prompt_logprobs=-1 if i else request.prompt_logprobs,
            )
