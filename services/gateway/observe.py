"""Counts one generation: its times and tokens, its caller's allowance, its line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from services.common.errors import ShoalError
from services.common.messages.frames import RUNNING
from services.gateway.auth import Caller
from services.gateway.life.stream import Delta
from services.gateway.metrics import GatewayMetrics
from services.gateway.openai.render import FINISH_REASONS

log = logging.getLogger(__name__)


class Transcript:
    """One call's prompts and outputs for the log, ``max_len`` characters of each. Made with --log_requests only."""

    def __init__(self, request_id: str, max_len: int) -> None:
        self._request_id, self._max_len = request_id, max_len
        self._outputs: dict[int, str] = {}  # by choice

    def on_prompts(self, prompts: Iterable[str | list[int]]) -> None:
        for prompt in prompts:
            # An id is one character at least: what is cut off here would not be shown.
            self._write("prompt", str(prompt[: self._max_len]))

    def on_delta(self, delta: Delta) -> None:
        said = self._outputs.get(delta.choice, "")
        if len(said) < self._max_len:
            said += delta.text[: self._max_len - len(said)]
        self._outputs[delta.choice] = said

    def on_end(self) -> None:
        for choice, text in sorted(self._outputs.items()):
            self._write("output", text, choice=choice)

    def _write(self, event: str, text: str, **fields: object) -> None:
        names = {"request_id": self._request_id} | fields
        log.info(event, extra=names | {"text": text[: self._max_len]})


class GenerationObserver:
    """``clock`` gives seconds of the event loop. Created when the request begins to be served."""

    def __init__(
        self,
        request_id: str,
        metrics: GatewayMetrics,
        caller: Caller,
        clock: Callable[[], float],
        *,
        prompt_tokens: int,
        stream: bool,
        transcript: Transcript | None = None,
    ) -> None:
        self._request_id, self._metrics, self._caller, self._clock = request_id, metrics, caller, clock
        self._prompt_tokens, self._stream, self._transcript = prompt_tokens, stream, transcript
        self._started_at = clock()
        self._last_at: dict[int, float] = {}
        self._num_tokens = 0
        self._ttft: float | None = None
        caller.running += 1
        metrics.running.inc()
        metrics.prompt_tokens.inc(prompt_tokens)

    def on_deltas(self, deltas: list[Delta]) -> None:
        now = self._clock()
        for delta in deltas:
            if self._transcript is not None:
                self._transcript.on_delta(delta)
            count = len(delta.ids)
            self._num_tokens += count
            last = self._last_at.get(delta.choice)
            self._last_at[delta.choice] = now
            if self._stream and last is not None and count:
                self._metrics.itl.observe((now - last) / count)
            if delta.finish != RUNNING:
                self._metrics.on_finish(FINISH_REASONS[delta.finish] or "")
        if self._ttft is None and self._stream and self._num_tokens:
            self._ttft = now - self._started_at
            self._metrics.ttft.observe(self._ttft)

    def on_end(self, error: ShoalError | None, *, left: bool) -> None:
        """``left``: the client went away first."""
        seconds = self._clock() - self._started_at
        if self._transcript is not None:
            self._transcript.on_end()
        self._caller.running -= 1
        self._caller.charge_output(self._num_tokens)
        metrics = self._metrics
        metrics.running.dec()
        metrics.generation_tokens.inc(self._num_tokens)
        if left:
            metrics.cancelled.inc()
        elif error is None:
            metrics.e2e.observe(seconds)
        fields: dict[str, object] = {
            "request_id": self._request_id,
            "tenant": self._caller.tenant or "-",
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": self._num_tokens,
            "seconds": round(seconds, 4),
        }
        if self._ttft is not None:
            fields["ttft"] = round(self._ttft, 4)
        outcome = "left" if left else (error.code if error else "done")
        log.info("generation %s", outcome, extra=fields)
