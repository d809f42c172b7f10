"""An event loop with a virtual clock, and processes on it that can be stopped, continued and killed.

Time jumps to the next timer as soon as nothing is ready, so hours pass in milliseconds, and the same program
with the same random source runs the same way every time. There is no input or output: whoever waits for
something that nobody will do has the loop raise ``Stuck``.

A *process* is everything that was started inside ``Process.run``: its tasks, timers and callbacks are known by
their context. That makes faults exact. A paused process (SIGSTOP) does nothing at all until it is continued, and
then meets its late timers at once; a killed one (SIGKILL) does nothing ever again, not even its ``finally``.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing is ready and no timer is set: what is awaited will never come."""


class Process:
    """One operating-system process of the simulated world."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.is_paused = self.is_killed = False
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_current.set, self)
        self._held: list[_Runnable] = []
        # A task that is collected as garbage would run its finally blocks; a killed process does not.
        self.tasks: list[asyncio.Task[Any]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task inside the process; whatever it starts belongs to the process too."""
        return self._loop.create_task(work, context=self._context.copy())

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        held, self._held = self._held, []
        self._loop.run_soon(held)

    def kill(self) -> None:
        self.is_killed = True
        self._held.clear()

    def admits(self, handle: _Runnable) -> bool:
        """Whether a handle of this process may run now; one of a paused process is kept."""
        if self.is_killed:
            return False
        if self.is_paused:
            self._held.append(handle)
            return False
        return True


_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose code is running; None for the world around all processes."""
    return _current.get()


def _run_admitted(handle: _Runnable) -> None:
    process = handle._context.get(_current)  # type: ignore[union-attr]
    if process is None or not (process.is_killed or process.is_paused) or process.admits(handle):
        asyncio.Handle._run(handle)  # type: ignore[attr-defined]


class _Handle(asyncio.Handle):
    _run = _run_admitted


class _TimerHandle(asyncio.TimerHandle):
    _run = _run_admitted

    def __lt__(self, other: _TimerHandle) -> bool:  # type: ignore[override]
        return self._when < other._when  # type: ignore[attr-defined]


_Runnable = _Handle | _TimerHandle


class VirtualLoop(asyncio.BaseEventLoop):
    """Uses the seams that BaseEventLoop has for its subclasses: ``_selector`` and ``_process_events``."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self.set_task_factory(_new_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Waiting for input, as the base class asks for it: here time passes instead."""
        if timeout is None:
            raise Stuck(f"at {self._now:.3f} s nothing is ready and no timer is set")
        self._now += max(timeout, 0.0)
        return []

    def run_soon(self, handles: list[_Runnable]) -> None:
        """Runs handles that were kept back, in their order."""
        self._ready.extend(handle for handle in handles if not handle.cancelled())  # type: ignore[attr-defined]

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody wakes this loop from another thread."""


def _new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: contextvars.Context | None = None
) -> asyncio.Task[T]:
    task = asyncio.Task(work, loop=loop, context=context)
    process = (context or contextvars.copy_context()).get(_current)
    if process is not None:
        process.tasks.append(task)
    return task


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs ``main`` on a new virtual loop to its end, and leaves nothing of it behind."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    # Tasks that a world leaves behind at its end are no concern of anybody.
    loop.set_exception_handler(lambda _, context: None if "task" in context else print(context))
    try:
        return loop.run_until_complete(main(loop))
    finally:
        asyncio.set_event_loop(None)
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._scheduled.clear()  # type: ignore[attr-defined]
        loop.close()
