"""An engine of two ranks whose start fails: in place of the ranks' own modules.

python -m tests.integration.worker.failing_start CASE ROLE FD...

CASE: where rank 1 fails, and optionally "-blocked": rank 0 then hangs at the same place in a call that never returns
and lets no other thread of Python run, as a driver's can.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # as the modules do in whose place this one is

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from services.worker.engine import rank_main
from services.worker.errors import DeviceMemoryError, WeightsError
from services.worker.runner import load, rank, start
from services.worker.runner.ranks import RankProcesses
from services.worker.runner.reports import Reports


def cut_short(*_: Any) -> NoReturn:
    raise WeightsError("the shard is cut short")


def no_memory(*_: Any) -> NoReturn:
    raise DeviceMemoryError("no room for KV")


def broken_capture(*_: Any) -> NoReturn:
    raise RuntimeError("the capture broke")


def killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def block(*_: Any) -> None:
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter's lock


def after(work: Callable[..., Any], hook: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any) -> Any:
        done = work(*arguments)
        hook()
        return done

    return both


def place(module: Any, where: str, hook: Callable[..., Any]) -> None:
    """Puts a hook where a rank loads its weights, sizes its pool or has captured its graphs."""
    if where == "load":
        module.load_model = hook
    elif where == "sizing":
        load.cpu_blocks = hook
    else:
        module.make_runner = after(load.make_runner, hook)


COMMAND = (sys.executable, "-m", "tests.integration.worker.failing_start")
CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    "load": ("load", cut_short),
    "sizing": ("sizing", no_memory),
    "capture": ("capture", broken_capture),
    "kill": ("load", killed),
}


def main() -> None:
    case, role, *words = sys.argv[1:]
    name, _, blocked = case.partition("-")
    where, hook = CASES[name]
    if role == "rank_0":
        start.RankProcesses = partial(  # type: ignore[misc, assignment]
            RankProcesses, command=(*COMMAND, case, "rank_1")
        )
        if blocked:
            place(start, where, block)
        link, reports = (socket.socket(fileno=int(word)) for word in words)
        os._exit(rank_main.main(link, Reports(reports)))
    place(rank, where, hook)
    links = [socket.socket(fileno=int(word)) for word in words[1:]]
    rank.main(int(words[0]), links[0], Reports(*links[1:]))


if __name__ == "__main__":
    main()
