"""The control process's hold on an engine: a narrow protocol, and the engine in another process behind it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import msgpack

from services.common.errors import ConfigError, DecodeError
from services.common.messages.codec import decode
from services.common.messages.request import GenerateRequest
from services.worker.engine.channel import HEADER, pack, read_header
from services.worker.engine.messages import (
    CancelStreams,
    EngineInfo,
    Failed,
    OnTrial,
    Shutdown,
    Start,
    StepOutput,
    Submit,
)
from services.worker.engine.requests import EngineConfig
from services.worker.engine.watch import STOPPED, EngineWatch
from services.worker.processes import kill_group
from services.worker.runner.config import RunnerConfig

log = logging.getLogger(__name__)

OnOutput = Callable[[StepOutput], Awaitable[None]]
OnDeath = Callable[[str, Collection[int] | None], Awaitable[None]]  # (reason, suspects)

RANK_0 = (sys.executable, "-m", "services.worker.engine.rank_main")
STOP_SECONDS = 5.0  # that a stopping engine gets before it is killed, and a killed one before it is given up
WATCH_SECONDS = 0.5
# An engine is given up when as many looks in a row saw the same wrong. Rank 0 knows more of a lost rank and of the
# streams that ran, so it has the time to tell, which is longer than its own patience (runner/ranks.py).
LOOKS_AT_STOPPED, LOOKS_AT_LOST = 2, 3


class EngineClient(Protocol):
    """An engine as the control process uses it. Everything happens on the event loop's thread."""

    async def start(self, on_output: OnOutput, on_death: OnDeath) -> EngineInfo:
        """Returns when the model can run. Raises ConfigError when it cannot be served as configured.

        ``on_output`` is awaited for each step, in order; an engine waits for a slow one. ``on_death`` is awaited
        once, with the reason, if the engine ends by itself; no output follows. Its suspects are the handles of the
        streams one of which may be why it died: none where it was killed from outside, None where it could be any.
        """

    def submit(self, handles: list[int], request: GenerateRequest) -> None:
        """Runs a checked request; ``handles[i]`` names its i-th choice and is never used again."""

    def cancel(self, handles: list[int]) -> None:
        """Outputs that are on the way may still come."""

    async def stop(self) -> None:
        """Ends the engine; on_death is not called."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    runner: RunnerConfig
    engine: EngineConfig
    instance_id: str
    log_level: str = "info"
    log_format: str = "text"
    watchdog_s: float = 60.0


class ProcessEngine:
    """An EngineClient whose engine is the process of rank 0: ``command``, with two sockets' numbers added.

    The first is for messages; over the second all ranks report why they end (runner/reports.py).
    """

    def __init__(self, settings: EngineSettings, command: Sequence[str] = RANK_0) -> None:
        self._settings, self._command = settings, command
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._watch: EngineWatch | None = None
        self._reports: socket.socket | None = None
        self._heard_at: float | None = None  # None: it still loads, which takes as long as it takes
        self._is_stopping = False
        self._verdict = ""  # why the watch killed it
        self._on_trial = 0  # see OnTrial

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, on_output: OnOutput, on_death: OnDeath) -> EngineInfo:
        reader = await self._spawn()
        settings = self._settings
        self._send(
            Start(
                runner=msgpack.packb(asdict(settings.runner)),
                engine=msgpack.packb(asdict(settings.engine)),
                instance_id=settings.instance_id,
                log_level=settings.log_level,
                log_format=settings.log_format,
            )
        )
        self._tasks = [asyncio.create_task(self._keep_watch())]
        try:
            info = await self._first_word(reader)
        except BaseException:
            self._close()
            raise
        self._heard_at = asyncio.get_running_loop().time()
        self._tasks.append(asyncio.create_task(self._read(reader, on_output, on_death)))
        return info

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        self._reports, their_reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reports.setblocking(False)
        with theirs, their_reports:
            fds = (theirs.fileno(), their_reports.fileno())
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *map(str, fds),
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, with the further ranks: it is killed as one
            )
        self._watch = EngineWatch(self.pid, self._reports)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        return reader

    async def _first_word(self, reader: asyncio.StreamReader) -> EngineInfo:
        try:
            info = await _receive(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            ended = await self._exit()
            raise ConfigError(
                f"the model could not be loaded: {self._verdict or f'rank 0 {ended}'}"
            ) from None
        except asyncio.CancelledError:
            kill_group(self.pid)
            raise
        if isinstance(info, Failed):
            await self._exit()
            raise ConfigError(info.reason)
        assert isinstance(info, EngineInfo)
        return info

    def submit(self, handles: list[int], request: GenerateRequest) -> None:
        self._send(Submit(handles, request))

    def cancel(self, handles: list[int]) -> None:
        self._send(CancelStreams(handles))

    async def stop(self) -> None:
        self._is_stopping = True
        self._send(Shutdown())
        self._close()
        await self._exit()

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for end in (self._writer, self._reports):
            if end is not None:
                end.close()

    def _send(self, message: Any) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(message))

    async def _read(self, reader: asyncio.StreamReader, on_output: OnOutput, on_death: OnDeath) -> None:
        loop = asyncio.get_running_loop()
        reason = ""
        suspects: Collection[int] | None = None
        try:
            while True:
                message = await _receive(reader)
                self._heard_at = loop.time()
                if isinstance(message, StepOutput):
                    await on_output(message)
                elif isinstance(message, OnTrial):
                    self._on_trial = message.handle
                elif isinstance(message, Failed):
                    reason, suspects = message.reason, message.suspects
                    kill_group(self.pid)  # it has no more to say, and a broken device can keep it from ending
                    break
        except (asyncio.IncompleteReadError, ConnectionError, DecodeError) as error:
            reason = reason or (error.message if isinstance(error, DecodeError) else "")
        except Exception as error:
            # Ids that were not taken in would be missing for ever: better a restart, and resumes elsewhere.
            log.exception("an output of the engine was not handled")
            self._verdict = f"an output was not handled: {type(error).__name__}"
            kill_group(self.pid)
        ended = await self._exit()
        if not self._is_stopping:
            assert self._watch is not None
            if self._watch.has_lost_rank:  # whatever the others then made of it
                suspects = ()
            elif suspects is None:
                suspects = self._suspects()
            await on_death(reason or self._verdict or f"rank 0 {ended}", suspects)

    def _suspects(self) -> Collection[int] | None:
        """Whom to suspect when the engine ended without a word of its own."""
        assert self._process is not None
        is_killed = self._process.returncode == -signal.SIGKILL and not self._verdict
        if is_killed or self._verdict == STOPPED:  # from outside
            return ()
        return (self._on_trial,) if self._on_trial else None

    async def _keep_watch(self) -> None:
        """Kills an engine that hangs, was stopped or lost a rank; its socket then closes, which its reader sees.

        Rank 0 tells of a lost rank itself, unless it is stuck between the calls in which it looks.
        """
        assert self._watch is not None
        loop = asyncio.get_running_loop()
        seen, looks = "", 0
        while True:
            slept_at = loop.time()
            await asyncio.sleep(WATCH_SECONDS)
            now = loop.time()
            if self._heard_at is not None and now - slept_at > 2 * WATCH_SECONDS:
                self._heard_at = now  # this process was stopped itself: silence proves nothing
            seen_before, seen = seen, self._watch.look()
            looks = looks + 1 if seen == seen_before else 1
            silent_s = 0.0 if self._heard_at is None else now - self._heard_at
            if seen and looks >= (LOOKS_AT_STOPPED if seen == STOPPED else LOOKS_AT_LOST):
                self._verdict = seen
            elif silent_s > self._settings.watchdog_s:
                self._verdict = (
                    f"a step takes longer than --watchdog_timeout: {silent_s:.0f} s without a word"
                )
            else:
                continue
            log.error("killing the engine: %s", self._verdict)
            kill_group(self.pid)
            await asyncio.sleep(STOP_SECONDS)
            self._close()  # a process stuck in a driver keeps its socket, and nobody shall wait for that
            return

    async def _exit(self) -> str:
        """Waits for the process's end, killing it when it hangs, and says how it ended."""
        process = self._process
        if process is None:
            return "was never started"
        try:
            code = await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            kill_group(process.pid)
            try:
                code = await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:  # stuck in a driver: nobody who waits for us shall wait for it
                return "was killed and does not end"
        kill_group(process.pid)  # further ranks that did not notice
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


async def _receive(reader: asyncio.StreamReader) -> Any:
    length, cls = read_header(await reader.readexactly(HEADER.size))
    return decode(cls, await reader.readexactly(length))
