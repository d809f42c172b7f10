"""Which sequences run in the next step, and with which blocks. Pure: no torch, no sockets, no clock."""

from services.worker.scheduler.admission import Limits
from services.worker.scheduler.scheduler import Scheduler
from services.worker.scheduler.sequence import Sequence, State, StepOutcome

__all__ = ["Limits", "Scheduler", "Sequence", "State", "StepOutcome"]
