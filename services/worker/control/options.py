"""What the control process itself goes by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    max_waiting: int = 64  # sequences accepted beyond the batch
    replay_retention_s: float = 30.0  # for which an ended stream can be sent again
