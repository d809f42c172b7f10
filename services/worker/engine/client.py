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
from services.worker.engine.process import further_ranks, has_ended, is_stopped, kill_group, process_tree
from services.worker.engine.requests import EngineConfig
from services.worker.runner.config import RunnerConfig

log = logging.getLogger(__name__)

OnOutput = Callable[[StepOutput], Awaitable[None]]
OnDeath = Callable[[str, Collection[int] | None], Awaitable[None]]  # (reason, suspects)

RANK_0 = (sys.executable, "-m", "services.worker.engine.rank_main")
STOP_SECONDS = 5.0  # that a stopping engine gets before it is killed, and a killed one before it is given up
STOPPED, RANK_ENDED = (
    "a process of the engine was stopped by a signal",
    "the process of a further rank has ended",
)
WATCH_SECONDS = 0.5  # an engine of which a process does nothing is given up when it was seen so twice


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
    """An EngineClient whose engine is the process of rank 0: ``command``, with its socket's number added."""

    def __init__(self, settings: EngineSettings, command: Sequence[str] = RANK_0) -> None:
        self._settings, self._command = settings, command
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0
        self._is_stopping = False
        self._verdict = ""  # why the watch killed it
        self._on_trial = 0  # see OnTrial

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, on_output: OnOutput, on_death: OnDeath) -> EngineInfo:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, with the further ranks: it is killed as one
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
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
        try:
            info = await self._first_word(reader)
        except BaseException:
            self._writer.close()
            raise
        self._heard_at = asyncio.get_running_loop().time()
        self._tasks = [
            asyncio.create_task(self._read(reader, on_output, on_death)),
            asyncio.create_task(self._watch()),
        ]
        return info

    async def _first_word(self, reader: asyncio.StreamReader) -> EngineInfo:
        try:
            info = await _receive(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ConfigError(f"the model could not be loaded: rank 0 {await self._exit()}") from None
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
        if self._writer is not None:
            self._writer.close()
        for task in self._tasks:
            task.cancel()
        await self._exit()

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
            if suspects is None:
                suspects = self._suspects()
            await on_death(reason or self._verdict or f"rank 0 {ended}", suspects)

    def _suspects(self) -> Collection[int] | None:
        """Whom to suspect when the engine ended without a word of its own."""
        assert self._process is not None
        is_killed = self._process.returncode == -signal.SIGKILL and not self._verdict
        if is_killed or self._verdict == STOPPED:  # from outside
            return ()
        return (self._on_trial,) if self._on_trial else None

    async def _watch(self) -> None:
        """Kills an engine that hangs, was stopped or lost a rank; its socket then closes, which tells _read.

        Rank 0 tells of a lost rank itself, unless it is stuck between the calls in which it looks.
        """
        loop = asyncio.get_running_loop()
        ranks = further_ranks(self.pid)
        idle_before = ""
        while True:
            slept_at = loop.time()
            await asyncio.sleep(WATCH_SECONDS)
            if loop.time() - slept_at > 2 * WATCH_SECONDS:
                self._heard_at = loop.time()  # this process was stopped itself: silence proves nothing
            silent_s = loop.time() - self._heard_at
            idle = STOPPED if any(map(is_stopped, process_tree(self.pid))) else ""
            idle = RANK_ENDED if any(map(has_ended, ranks)) else idle
            if idle and idle == idle_before:
                self._verdict = idle
            elif silent_s > self._settings.watchdog_s:
                self._verdict = (
                    f"a step takes longer than --watchdog_timeout: {silent_s:.0f} s without a word"
                )
            else:
                idle_before = idle
                continue
            log.error("killing the engine: %s", self._verdict)
            kill_group(self.pid)
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
