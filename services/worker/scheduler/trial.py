"""Suspects: sequences of requests under which engines have died are let in one at a time."""

from __future__ import annotations

from services.worker.scheduler.sequence import Sequence, State

# Ids that a suspect must draw before others are let in: its prompt, and then a decode step, have come to their end.
IDS_TO_PASS = 2

_OUT = (State.WAITING, State.PREEMPTED, State.FINISHED)


class Trial:
    """While it is on nobody else enters the batch. Whoever runs already goes on: an engine that dies now has met
    nothing new but the suspect, so the suspect alone is to blame."""

    def __init__(self) -> None:
        self._suspect: Sequence | None = None
        self._passes_at = 0  # ids

    def begin(self, suspect: Sequence) -> None:
        self._suspect, self._passes_at = suspect, len(suspect.ids) + IDS_TO_PASS

    def suspect(self) -> Sequence | None:
        """Who is on trial. It ends here when the suspect has passed, or is out of the batch."""
        suspect = self._suspect
        if suspect is not None and (suspect.state in _OUT or len(suspect.ids) >= self._passes_at):
            # One that was preempted has not passed, and is tried again.
            suspect.is_suspect = suspect.is_suspect and len(suspect.ids) < self._passes_at
            self._suspect = None
        return self._suspect
