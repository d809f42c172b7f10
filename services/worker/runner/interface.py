"""What the engine is handed: the protocols of the runner. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.worker.runner.plan import StepPlan, StepResult
from services.worker.runner.shapes import SMALL_MIXED_STEP


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What the loaded model and the measured memory allow."""

    num_blocks: int
    """Blocks in the pool, block 0 (scratch, never handed out) included: usable ids are 1 .. num_blocks - 1."""
    block_size: int
    """Tokens in a block."""
    max_slots: int
    max_model_len: int
    """The longest sequence, prompt and output together, that a slot's block table holds."""
    max_step_tokens: int
    """The most tokens one plan may run: the size at which memory was measured."""
    vocab_size: int
    eos_ids: tuple[int, ...]
    architecture: str
    dtype: str
    device: str
    num_params: int
    graph_bytes: int = 0
    """Memory of the device that captured graphs took on rank 0, and how long capturing took."""
    capture_seconds: float = 0.0
    least_mixed_tokens: int = SMALL_MIXED_STEP
    """See `least_mixed_step`."""
    max_shared_prompt: int | None = None
    """The KV of longer prompts depends on their length (RoPE type "dynamic"): they share blocks only with prompts
    just as long. None: no such limit."""


class StepHandle(Protocol):
    """A step under way. Handles finish in the order in which their plans were launched."""

    def ready(self) -> bool:
        """True once result() would not wait."""
        ...

    def result(self) -> StepResult:
        """Waits for the step and returns what it drew. Raises RunnerError if the step failed or a rank died."""
        ...


class Runner(Protocol):
    """The model on its device(s). One caller, one thread; not safe for concurrent use.

    The caller owns slots and blocks; it may free those of a sequence as soon as no launched plan
    names them, and may hand them out again in the next plan: plans run strictly in order.
    """

    info: RunnerInfo

    def launch(self, plan: StepPlan) -> StepHandle:
        """Starts a step and returns at once (on cpu, after it ran). Plans run in the order launched.

        The next plan may be launched before this step's result is read; at most MAX_IN_FLIGHT steps may
        be unread. Raises RunnerError if the step cannot be run, one before it failed, or a rank has died.
        """
        ...

    def close(self) -> None:
        """Ends the other ranks and frees the device's memory. Idempotent."""
        ...


MAX_IN_FLIGHT = 4
"""Steps launched and not yet read: beyond it a launch waits for the oldest."""
