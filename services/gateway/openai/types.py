"""Bodies that clients send. Types are strict; values are checked in params.py, where the limits are known.

Field names and meanings are OpenAI's, and vLLM's for what OpenAI has not. Unknown fields are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenIds = list[int]


def _prompt_kind(value: Any) -> str | None:
    """Which form a prompt has, by its first item. Trying each form in turn costs milliseconds for long prompts."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else 0
    return "texts" if isinstance(first, str) else "id lists" if isinstance(first, list) else "ids"


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class TextPart(Body):
    type: str
    text: str | None = None


class FunctionCall(Body):
    name: str
    arguments: str = "{}"


class ToolCall(Body):
    id: str | None = None
    type: str = "function"
    function: FunctionCall


class Message(Body):
    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Tool(Body):
    type: str
    function: dict[str, Any]


class GenerationBody(Body):
    """What chat and completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    seed: int | None = None
    user: str | None = None
    stop: Annotated[str | list[str] | None, Field(description="a string or a list of strings")] = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int | None = None
    max_tokens: int | None = None
    temperature: Finite | None = None
    top_p: Finite | None = None
    top_k: int | None = None
    min_p: Finite | None = None
    presence_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    repetition_penalty: Finite | None = None
    logit_bias: dict[str, Finite] | None = None
    skip_special_tokens: bool = True
    bad_words: list[str] | None = None
    allowed_token_ids: TokenIds | None = None
    prompt_logprobs: Annotated[
        int | None,
        Field(description="vLLM's: log probabilities of the prompt's tokens, and of so many likeliest"),
    ] = None
    return_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    priority: int = 0
    cache_salt: str | None = None
    timeout: Annotated[
        Finite | None,
        Field(
            description="seconds, over 0, after which the request ends wherever it is, with code "
            "deadline_exceeded; --timeout ends it sooner"
        ),
    ] = None
    stream_retention: Annotated[
        Finite | None,
        Field(
            description="seconds for which a stream whose connection broke can be taken up again with "
            "Last-Event-ID, up to --max_stream_retention; 0: it is not kept; null: as --stream_retention says"
        ),
    ] = None


class ChatBody(GenerationBody):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool = False
    tools: list[Tool] | None = None
    tool_choice: Annotated[str | dict[str, Any] | None, Field(description="a string or an object")] = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class CompletionBody(GenerationBody):
    prompt: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[str], Tag("texts")]
        | Annotated[list[int], Tag("ids")]
        | Annotated[list[list[int]], Tag("id lists")],
        Discriminator(_prompt_kind),
        Field(description="a string, a list of strings, a list of token ids or a list of lists of token ids"),
    ]
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None


class TokenizeBody(Body):
    """vLLM's: a text, or messages for the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    model: str | None = None
    tokens: TokenIds


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "shoal"
    root: str
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: ErrorDetail
