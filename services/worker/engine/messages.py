"""What the control process and rank 0 say to each other, over a socket pair between them."""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Ids, message
from services.common.messages.frames import PromptLogprobs, RowLogprobs
from services.common.messages.request import GenerateRequest


@message
class EngineInfo:
    """Rank 0's first word when it can run: what the model and the memory allow."""

    num_blocks: int  # that can be used
    block_size: int
    max_running: int
    max_request_tokens: int  # prompt and output together
    vocab_size: int
    eos_ids: Ids
    architecture: str = ""
    dtype: str = ""
    device: str = ""
    num_params: int = 0
    graph_bytes: int = 0  # that captured graphs took on the device
    capture_s: float = 0.0


@message
class Failed:
    """Rank 0's last word. ``exit_code`` 2: the model cannot be served as configured.

    ``suspects`` are the streams one of which may be the cause; none where it came from outside.
    """

    reason: str
    exit_code: int = 1
    suspects: Ids = field(default_factory=list)  # handles


@message
class Start:
    """The control process's first word: the settings, as msgpack maps of the named dataclasses."""

    runner: bytes  # RunnerConfig
    engine: bytes  # EngineConfig
    instance_id: str
    log_level: str = "info"
    log_format: str = "text"


@message
class Submit:
    """A request to run; ``handles[i]`` names the stream of its i-th choice from now on."""

    handles: Ids
    request: GenerateRequest


@message
class CancelStreams:
    handles: Ids


@message
class Shutdown:
    """Stop now."""


@message
class Alive:
    """Rank 0 idles and is well. While it runs steps, their outputs say so."""


@message
class OnTrial:
    """Should rank 0 die without a word, then of this stream, which ran when others died. 0: of nobody in particular."""

    handle: int


@message
class StepOutput:
    """What one step made known. Row i of each column speaks of the same stream.

    ``first`` is the index of the row's first id in the stream's output over all attempts.
    """

    handles: Ids = field(default_factory=list)
    first: Ids = field(default_factory=list)
    counts: Ids = field(default_factory=list)
    ids: Ids = field(default_factory=list)
    finish: dict[int, int] = field(default_factory=dict)  # row -> finish code, where the stream ended
    errors: dict[int, str] = field(default_factory=dict)  # row -> why, where the code is ERROR
    logprobs: dict[int, RowLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict)  # handle -> what the step scored
    admitted: dict[int, int] = field(default_factory=dict)  # handle -> its prompt ids found in the cache
    preempted: Ids = field(default_factory=list)  # handles
    stored: bytes = b""  # names of blocks that entered and left the prefix cache, net
    removed: bytes = b""
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    prefill_tokens: int = 0  # prompt tokens that the step computed
    step_s: float = 0.0


# The kinds of message, as one byte on the socket.
KINDS: tuple[type, ...] = (
    EngineInfo,
    Failed,
    Start,
    Submit,
    CancelStreams,
    Shutdown,
    Alive,
    StepOutput,
    OnTrial,
)
