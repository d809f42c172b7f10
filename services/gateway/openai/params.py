"""From a checked body to what the engine is told: every value against its limit, each refusal naming both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.common.errors import ContextLengthExceeded, InvalidValue, ModelNotFound, Unsupported
from services.common.messages.request import SamplingParams, StreamParams
from services.gateway.model import ServedModel
from services.gateway.openai.types import ChatBody, GenerationBody

MAX_LOGPROBS = 20
MAX_SCORES = 1 << 19  # numbers in the prompts' log probabilities of one answer
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 256
MAX_STOP_CHARS = 4096
MAX_PRIORITY = 2**31 - 1
MAX_TIMEOUT_S = 7 * 86400
COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions

_NONE: tuple[Any, ...] = (None, False, [], {}, "")
# Fields that others have and this version does not -> values with which they ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "response_format": (*_NONE, {"type": "text"}),
    "audio": _NONE,
    "modalities": (*_NONE, ["text"]),
    "prediction": _NONE,
    "web_search_options": _NONE,
    "functions": _NONE,
    "function_call": (*_NONE, "none"),
    "suffix": _NONE,
    "use_beam_search": _NONE,
    "length_penalty": (*_NONE, 1, 1.0),
    "prompt_embeds": _NONE,
    "truncate_prompt_tokens": _NONE,
    "structured_outputs": _NONE,
    "guided_json": _NONE,
    "guided_regex": _NONE,
    "guided_choice": _NONE,
    "guided_grammar": _NONE,
    "logits_processors": _NONE,
    "mm_processor_kwargs": _NONE,
    "documents": _NONE,
    "chat_template": _NONE,
}


def check_supported(raw: dict[str, Any]) -> None:
    """Refuses what this version would otherwise silently leave undone."""
    for name in raw.keys() & _UNSUPPORTED.keys():
        if raw[name] not in _UNSUPPORTED[name]:
            raise Unsupported(f"{name} is not supported by this version", param=name)
    choice = raw.get("tool_choice")
    if choice not in (None, "none", "auto"):
        raise Unsupported(
            "tool_choice must be 'none' or 'auto': forcing a tool is not supported", param="tool_choice"
        )


def check_model(model: ServedModel, name: str | None) -> None:
    if name is not None and name != model.name:
        raise ModelNotFound(
            f"the model {name!r} does not exist; this server has {model.name!r}", param="model"
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a deployment allows."""

    max_choices: int = 128
    max_stop_strings: int = 16
    timeout_s: float = 0.0  # 0: none
    stream_retention_s: float = 0.0  # of streams that say nothing of it; 0: they are not logged
    max_stream_retention_s: float = 0.0  # of those that ask for it

    @property
    def longest_retention_s(self) -> float:
        return max(self.stream_retention_s, self.max_stream_retention_s)


def ranged(name: str, value: float, low: float, high: float, *, above_low: bool = False) -> Any:
    """The value, or InvalidValue that names the range."""
    if not (low < value if above_low else low <= value) or not value <= high:
        start = "over" if above_low else "at least"
        raise InvalidValue(f"{name} must be {start} {low:g} and at most {high:g}, not {value:g}", param=name)
    return value


def num_choices(body: GenerationBody, limits: Limits) -> int:
    return ranged("n", 1 if body.n is None else body.n, 1, limits.max_choices)


def seed_of(body: GenerationBody) -> int | None:
    if body.seed is None:
        return None
    return ranged("seed", body.seed, -(2**63), 2**63 - 1) & (2**63 - 1)


def stop_strings(body: GenerationBody, limits: Limits) -> list[str]:
    stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or [])
    count = len(stop) + len(body.stop_token_ids or [])
    if count > limits.max_stop_strings:
        raise InvalidValue(
            f"stop and stop_token_ids may hold {limits.max_stop_strings} entries (--max_stop_strings), not {count}",
            param="stop",
        )
    for text in stop:
        if not text or len(text) > MAX_STOP_CHARS:
            raise InvalidValue(f"each stop string must have 1 to {MAX_STOP_CHARS} characters", param="stop")
    return stop


def check_ids(name: str, ids: list[int], model: ServedModel) -> list[int]:
    """Token ids within the vocabulary, or InvalidValue."""
    if ids and not (min(ids) >= 0 and max(ids) < model.vocab_size):
        bad = next(i for i in ids if not 0 <= i < model.vocab_size)
        raise InvalidValue(
            f"{name}: token id {bad} is not in the vocabulary of {model.vocab_size}", param=name
        )
    return ids


def max_tokens_name(body: GenerationBody) -> str:
    is_new = isinstance(body, ChatBody) and body.max_completion_tokens is not None
    return "max_completion_tokens" if is_new else "max_tokens"


def prompt_logprobs(body: GenerationBody) -> int:
    """vLLM's field; -1 where it was not given."""
    if body.prompt_logprobs is None:
        return -1
    if body.stream:
        raise InvalidValue("prompt_logprobs cannot be streamed", param="prompt_logprobs")
    return ranged("prompt_logprobs", body.prompt_logprobs, 0, MAX_LOGPROBS)


def check_scores(num_top: int, prompt_ids: list[list[int]], num_choices: int, param: str) -> None:
    """Keeps answers with log probabilities of prompts within bounds. ``num_choices``: shown, per prompt."""
    count = (num_top + 1) * num_choices * sum(map(len, prompt_ids))
    if count > MAX_SCORES:
        raise InvalidValue(
            f"an answer may hold {MAX_SCORES} log probabilities of prompt tokens, not {count}: ask for shorter or "
            "fewer prompts, fewer choices or fewer likeliest tokens",
            param=param,
        )


def output_limit(
    body: GenerationBody, prompt_len: int, max_len: int, default: int | None, *, least: int = 1
) -> int:
    """How many tokens may be made. ``default`` None: whatever the context has left."""
    name = max_tokens_name(body)
    asked: int | None = getattr(body, name)
    if asked == 0 == least and prompt_len == max_len:
        return 0
    if prompt_len >= max_len:
        raise ContextLengthExceeded(
            f"this model's maximum context length is {max_len} tokens, but the prompt has {prompt_len}",
            param="prompt",
        )
    if asked is None:
        return max_len - prompt_len if default is None else min(default, max_len - prompt_len)
    ranged(name, asked, least, 2**31 - 1)
    if prompt_len + asked > max_len:
        raise ContextLengthExceeded(
            f"this model's maximum context length is {max_len} tokens, but {prompt_len + asked} were asked for: "
            f"{prompt_len} in the prompt and {asked} in {name}",
            param=name,
        )
    return asked


async def sampling_params(
    body: GenerationBody, model: ServedModel, limits: Limits, *, max_tokens: int, num_logprobs: int
) -> SamplingParams:
    """All of SamplingParams, each value within its range."""
    top_k = 0 if body.top_k is None else ranged("top_k", body.top_k, -1, 2**31 - 1)
    top_p = 1.0 if body.top_p is None else ranged("top_p", body.top_p, 0, 1)
    min_tokens = 0 if body.min_tokens is None else ranged("min_tokens", body.min_tokens, 0, 2**31 - 1)
    if min_tokens > max_tokens:
        raise InvalidValue(
            f"min_tokens must be at most {max_tokens_name(body)}, here {max_tokens}, not {min_tokens}",
            param="min_tokens",
        )
    bias = body.logit_bias or {}
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=1.0
        if body.temperature is None
        else float(ranged("temperature", body.temperature, 0, 100)),
        top_p=max(float(top_p), 1e-6),  # 0 means: only the likeliest
        top_k=max(top_k, 0),
        min_p=0.0 if body.min_p is None else float(ranged("min_p", body.min_p, 0, 1)),
        presence_penalty=_penalty("presence_penalty", body.presence_penalty),
        frequency_penalty=_penalty("frequency_penalty", body.frequency_penalty),
        repetition_penalty=(
            1.0
            if body.repetition_penalty is None
            else float(ranged("repetition_penalty", body.repetition_penalty, 0, 100, above_low=True))
        ),
        ignore_eos=body.ignore_eos,
        stop_token_ids=check_ids("stop_token_ids", body.stop_token_ids or [], model),
        logit_bias_ids=_bias_ids(bias, model),
        logit_bias_values=[float(ranged("logit_bias", value, -100, 100)) for value in bias.values()],
        allowed_token_ids=_allowed(body, model),
        bad_words=await _bad_words(body, model),
        num_logprobs=num_logprobs,
    )


def _penalty(name: str, value: float | None) -> float:
    return 0.0 if value is None else float(ranged(name, value, -2, 2))


def _bias_ids(bias: dict[str, float], model: ServedModel) -> list[int]:
    if len(bias) > MAX_LOGIT_BIAS:
        raise InvalidValue(
            f"logit_bias may hold {MAX_LOGIT_BIAS} entries, not {len(bias)}", param="logit_bias"
        )
    ids: list[int] = []
    for key in bias:
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise InvalidValue(f"logit_bias: {key[:32]!r} is not a token id", param="logit_bias")
        ids.append(int(key))
    return check_ids("logit_bias", ids, model)


def _allowed(body: GenerationBody, model: ServedModel) -> list[int]:
    if body.allowed_token_ids is None:
        return []
    if not body.allowed_token_ids:
        raise InvalidValue("allowed_token_ids must not be empty", param="allowed_token_ids")
    if len(body.allowed_token_ids) > model.vocab_size:
        raise InvalidValue(
            f"allowed_token_ids may hold {model.vocab_size} ids, not {len(body.allowed_token_ids)}",
            param="allowed_token_ids",
        )
    return check_ids("allowed_token_ids", body.allowed_token_ids, model)


async def _bad_words(body: GenerationBody, model: ServedModel) -> list[list[int]]:
    """Each word as it is tokenized at the start of a text and after a space."""
    words = body.bad_words or []
    if len(words) > MAX_BAD_WORDS:
        raise InvalidValue(f"bad_words may hold {MAX_BAD_WORDS} words, not {len(words)}", param="bad_words")
    sequences: list[list[int]] = []
    for word in words:
        if not word.strip() or len(word) > MAX_STOP_CHARS:
            raise InvalidValue(
                f"each of bad_words must have 1 to {MAX_STOP_CHARS} characters", param="bad_words"
            )
        for text in (word.lstrip(), " " + word.lstrip()):
            ids = await model.tokenizer.encode(text, add_special_tokens=False, param="bad_words")
            if ids and ids not in sequences:
                sequences.append(ids)
    return sequences


def stream_params(body: GenerationBody, stop: list[str], *, keep_special: bool = False) -> StreamParams:
    return StreamParams(
        stop=stop,
        include_stop_str_in_output=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens and not keep_special,
    )


def check_stream_options(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidValue("stream_options is only allowed with stream=true", param="stream_options")


def priority_of(body: GenerationBody) -> int:
    return ranged("priority", body.priority, -MAX_PRIORITY, MAX_PRIORITY)


def timeout_of(body: GenerationBody, limits: Limits) -> float:
    """Seconds that the request may take: the least of what it and the deployment say; 0: any."""
    if body.timeout is None:
        return limits.timeout_s
    asked = float(ranged("timeout", body.timeout, 0, MAX_TIMEOUT_S, above_low=True))
    return min(asked, limits.timeout_s) if limits.timeout_s else asked


def retention_of(body: GenerationBody, limits: Limits) -> float:
    """Seconds for which the answer is kept for a client that comes back; 0: it is not."""
    asked, most = body.stream_retention, limits.longest_retention_s
    if asked is None:
        return limits.stream_retention_s if body.stream else 0.0
    if not 0 <= asked <= most:
        raise InvalidValue(
            f"stream_retention must be at least 0 and at most {most:g} (--max_stream_retention), not {asked:g}",
            param="stream_retention",
        )
    if asked and not body.stream:
        raise InvalidValue("stream_retention is only allowed with stream=true", param="stream_retention")
    return float(asked)
