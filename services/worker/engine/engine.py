"""The step loop: takes commands, plans the next step while the last one runs, and tells what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from services.common.messages import frames
from services.common.messages.frames import PromptLogprobs, RowLogprobs
from services.worker.engine.channel import Channel
from services.worker.engine.messages import (
    Alive,
    CancelStreams,
    EngineInfo,
    OnTrial,
    Shutdown,
    StepOutput,
    Submit,
)
from services.worker.engine.requests import EngineConfig, SequenceFactory
from services.worker.runner.interface import Runner, RunnerInfo, StepHandle
from services.worker.runner.plan import PromptScores, StepPlan, StepResult
from services.worker.scheduler import Limits, Scheduler, Sequence, StepOutcome

IDLE_SECONDS = 0.5  # how often an idle engine says that it lives


def engine_info(info: RunnerInfo, config: EngineConfig) -> EngineInfo:
    """What requests may ask of this runner under this configuration."""
    fits = (info.num_blocks - 1) * info.block_size
    limit = min(info.max_model_len, fits, config.max_request_tokens or fits)
    if not config.can_chunk:
        limit = min(limit, info.max_step_tokens)
    return EngineInfo(
        num_blocks=info.num_blocks - 1,
        block_size=info.block_size,
        max_running=min(config.max_running, info.max_slots),
        max_request_tokens=limit,
        vocab_size=info.vocab_size,
        eos_ids=list(config.eos_ids or info.eos_ids),
        architecture=info.architecture,
        dtype=info.dtype,
        device=info.device,
        num_params=info.num_params,
        graph_bytes=info.graph_bytes,
        capture_s=info.capture_seconds,
    )


def scheduler_limits(info: RunnerInfo, config: EngineConfig) -> Limits:
    return Limits(
        max_running=min(config.max_running, info.max_slots),
        max_step_tokens=min(config.max_step_tokens, info.max_step_tokens),
        max_chunk_tokens=config.max_chunk_tokens,
        can_chunk=config.can_chunk,
        conservativeness=config.conservativeness,
        max_mixed_tokens=config.max_mixed_tokens,
        least_mixed_tokens=info.least_mixed_tokens,
    )


class Engine:
    """Owns the scheduler and the runner; one thread, no event loop.

    ``depth`` steps stay under way while the next is planned: 1 hides the host's work behind the device's. On a cpu
    launch() returns when the step is done, so 0 gives every id out one step earlier.
    ``clock`` gives seconds and is for figures only.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        factory: SequenceFactory,
        channel: Channel,
        *,
        depth: int,
        clock: Callable[[], float],
    ) -> None:
        self._scheduler, self._runner, self._factory = scheduler, runner, factory
        self._channel, self._depth, self._clock = channel, depth, clock
        self._under_way: deque[tuple[StepHandle, int]] = deque()  # (step, its prefill tokens)
        self._sequences: dict[int, Sequence] = {}
        self._on_trial: Sequence | None = None  # as told to the control process
        self._last_at = clock()

    def run(self) -> None:
        """Until told to shut down. Raises ChannelClosed when the control process is gone."""
        while True:
            is_idle = not self._scheduler.has_work
            messages = self._channel.poll(IDLE_SECONDS if is_idle else 0.0)
            for message in messages:
                if isinstance(message, Shutdown):
                    return
                self._obey(message)
            if is_idle and not messages:
                self._channel.send(Alive())
            elif self._scheduler.has_work:
                self.turn()

    def to_blame(self) -> list[int]:
        """Handles of the streams one of which may be why run() raised: those that ran, or else all."""
        return self._scheduler.to_blame() or list(self._sequences)

    def turn(self) -> None:
        """Launches the next step and reads the oldest one under way."""
        if not self._under_way:
            self._last_at = self._clock()
        plan = self._scheduler.schedule()
        on_trial = self._scheduler.on_trial()
        if on_trial is not self._on_trial:
            self._on_trial = on_trial
            self._channel.send(OnTrial(self._on_trial.handle if self._on_trial else 0))
        if plan is not None:
            self._under_way.append((self._runner.launch(plan), _num_prefill_tokens(plan)))
        elif not self._under_way:
            raise RuntimeError("sequences wait, and none of them can run")
        if plan is None or len(self._under_way) > self._depth:
            handle, prefill_tokens = self._under_way.popleft()
            result = handle.result()
            now = self._clock()
            output = self._output(self._scheduler.collect(result), result)
            output.prefill_tokens, output.step_s, self._last_at = prefill_tokens, now - self._last_at, now
            self._channel.send(output)

    # ---- commands

    def _obey(self, message: Any) -> None:
        if isinstance(message, Submit):
            self._submit(message)
        elif isinstance(message, CancelStreams):
            self._cancel(message)

    def _submit(self, submit: Submit) -> None:
        ended = StepOutput()
        try:
            sequences = list(self._factory.make(submit))
        except (ValueError, TypeError, OverflowError) as error:
            for handle, choice in zip(submit.handles, submit.request.choices, strict=True):
                _end_row(ended, handle, len(choice.output_ids), frames.ERROR)
                ended.errors[len(ended.handles) - 1] = f"the request cannot be run: {error}"
            sequences = []
        for sequence in sequences:
            if self._scheduler.add(sequence):
                self._sequences[sequence.handle] = sequence
            else:  # a resume of a choice whose end alone was lost
                _end_row(ended, sequence.handle, sequence.num_outputs, sequence.finish())
        if ended.handles:
            self._fill_load(ended)
            self._channel.send(ended)

    def _cancel(self, cancel: CancelStreams) -> None:
        for handle in cancel.handles:
            sequence = self._sequences.pop(handle, None)
            if sequence is not None:
                self._scheduler.cancel(sequence)
        if not self._scheduler.has_work:  # no step will tell what is free again
            output = StepOutput()
            self._fill_load(output)
            self._channel.send(output)

    # ---- results

    def _output(self, outcome: StepOutcome, result: StepResult) -> StepOutput:
        output = StepOutput(
            handles=outcome.handles,
            first=outcome.index,
            counts=[1] * len(outcome.ids),
            ids=outcome.ids,
            finish=outcome.finish,
            admitted={s.handle: s.cached_tokens for s in outcome.admitted},
            preempted=[s.handle for s in outcome.preempted],
        )
        if result.logprobs is not None:
            self._add_logprobs(output, outcome, result)
        if result.prompt is not None:
            output.prompt_logprobs = {
                sequence.handle: _prompt_logprobs(result.prompt, ids, at, sequence.prompt_logprobs)
                for sequence, ids, at in outcome.scored
            }
        for row in outcome.finish:
            del self._sequences[outcome.handles[row]]
        self._fill_load(output)
        return output

    def _add_logprobs(self, output: StepOutput, outcome: StepOutcome, result: StepResult) -> None:
        assert result.logprobs is not None
        for row, (handle, source) in enumerate(zip(outcome.handles, outcome.result_rows, strict=True)):
            num_top = self._sequences[handle].sampling.logprobs
            if num_top is None:
                continue
            found = RowLogprobs([float(result.logprobs[source])])
            if num_top and result.top_ids is not None and result.top_logprobs is not None:
                found.num_top = num_top
                found.top_ids = result.top_ids[source, :num_top].tolist()
                found.top_values = result.top_logprobs[source, :num_top].tolist()
            output.logprobs[row] = found

    def _fill_load(self, output: StepOutput) -> None:
        output.running, output.waiting = self._scheduler.num_running, self._scheduler.num_waiting
        output.free_blocks = self._scheduler.cache.pool.num_free
        output.stored, output.removed = self._scheduler.cache.changes.take()


def _prompt_logprobs(scores: PromptScores, ids: range, at: int, num_top: int) -> PromptLogprobs:
    """Those of the prompt ids ``ids``, the first of which stands at ``at``."""
    rows = slice(at, at + len(ids))
    top_ids, top_values = scores.top_ids[rows, :num_top], scores.top_logprobs[rows, :num_top]
    return PromptLogprobs(
        ids.start,
        scores.logprobs[rows].astype("<f4").tobytes(),
        scores.ranks[rows].astype("<i4").tobytes(),
        top_ids.shape[1],
        top_ids.astype("<i4").tobytes(),
        top_values.astype("<f4").tobytes(),
    )


def _num_prefill_tokens(plan: StepPlan) -> int:
    return sum(len(chunk.token_ids) for chunk in plan.prefills) if plan.prefills else 0


def _end_row(output: StepOutput, handle: int, index: int, finish: int) -> None:
    """A row without ids that ends its stream."""
    output.finish[len(output.handles)] = finish
    output.handles.append(handle)
    output.first.append(index)
    output.counts.append(0)
