"""Rows of many streams, gathered into one TokenFrame per detokenizer."""

from __future__ import annotations

from services.common.messages.frames import RUNNING, PromptLogprobs, RowLogprobs, StreamInfo, TokenFrame
from services.worker.control.stream import StreamLog

# Ids in one replay row, or scored in one frame: with 20 likeliest ids for each, a frame stays far under the bus's limit.
MAX_ROW_IDS = 8192


class FrameBuilder:
    """The frames of one step, or of one replay."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._frames: dict[str, TokenFrame] = {}

    @property
    def frames(self) -> dict[str, TokenFrame]:
        """detokenizer -> its frame"""
        return self._frames

    def add(
        self,
        log: StreamLog,
        first: int,
        ids: list[int],
        finish: int,
        *,
        info: StreamInfo | None = None,
        logprobs: RowLogprobs | None = None,
        prompt: PromptLogprobs | None = None,
    ) -> None:
        frame = self._frames.get(log.detokenizer_id)
        if frame is None:
            frame = TokenFrame(self._worker_id, [], [], [], [], [], [], [])
            self._frames[log.detokenizer_id] = frame
        row = len(frame.streams)
        frame.streams.append(log.stream)
        frame.attempts.append(log.attempt)
        frame.first.append(first)
        frame.counts.append(len(ids))
        frame.ids += ids
        frame.finish.append(finish)
        frame.cached_tokens.append(log.cached_tokens)
        if finish and log.stop_id is not None:
            frame.stop_ids[row] = log.stop_id
        if finish and log.error:
            frame.errors[row] = log.error
        if info is not None:
            frame.infos[row] = info
        if logprobs is not None:
            frame.logprobs[row] = logprobs
        if prompt is not None:
            frame.prompt_logprobs[row] = prompt


def replay_frames(worker_id: str, log: StreamLog) -> list[TokenFrame]:
    """All that a detokenizer needs to take over a stream: its ids from the first on, with its StreamInfo.

    ``prior_ids`` is empty and ``first`` is 0, so one that knows nothing of the stream can rebuild it. A long stream
    comes in several frames.
    """
    frames: list[TokenFrame] = []
    starts = range(0, max(1, len(log.ids)), MAX_ROW_IDS)
    for start in starts:
        end = min(start + MAX_ROW_IDS, len(log.ids))
        builder = FrameBuilder(worker_id)
        builder.add(
            log,
            start,
            log.ids[start:end],
            log.finish if end == len(log.ids) else 0,
            info=log.info([]) if start == 0 else None,
            logprobs=log.logprobs_of(start, end),
        )
        frames += builder.frames.values()
    return frames


def prompt_frames(worker_id: str, log: StreamLog, parts: list[PromptLogprobs]) -> list[TokenFrame]:
    """A frame for each part of the prompt's log probabilities; long parts are cut.

    Each stands on its own, as the start of a stream without ids, so a detokenizer hands it on whatever else of the
    stream it knows.
    """
    frames: list[TokenFrame] = []
    for whole in parts:
        for start in range(0, whole.count, MAX_ROW_IDS):
            part = whole.part(start, min(start + MAX_ROW_IDS, whole.count))
            builder = FrameBuilder(worker_id)
            builder.add(log, 0, [], RUNNING, info=log.info([]), prompt=part)
            frames += builder.frames.values()
    return frames
