"""The process of one rank above 0, started by rank 0: `python -m services.worker.runner.rank <rank> <fd> [<fd>]`.

The sockets are rank 0's link, over which plans come, and that of the reports, if somebody supervises.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # Reading torch's modules makes no garbage; looking for it takes a fifth of the time.

import contextlib
import select
import signal
import socket
import sys
import traceback

import msgpack
import torch
import torch.distributed as dist

from services.worker.errors import ModelLoadError, RunnerError, WorkerError
from services.worker.parallel.group import join
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import StepHandle
from services.worker.runner.load import load_model, make_runner, pick_device
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import decode_plan
from services.worker.runner.ranks import die_with_parent, end_process, receive, report
from services.worker.runner.reports import Report, Reports

# Between two looks at the step under way. A plan that arrives meanwhile is not held up by it.
LOOK_SECONDS = 0.005


def load(link: socket.socket) -> ModelRunner:
    first = receive(link)
    if first is None:
        end_process(0)
    options, rank, port = msgpack.unpackb(first)
    config = RunnerConfig(**options)
    device = pick_device(config, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, config.tp, is_master=False)
    tp = join(rank, config.tp, store, device, use_peer_memory=config.peer_memory)
    loaded = load_model(config, tp, device)
    report(link, None)
    runner, _ = make_runner(config, loaded)
    report(link, None)
    return runner


def next_plan(link: socket.socket, under_way: StepHandle | None) -> bytes | None:
    """Waits for rank 0's next plan; None: it is gone. Raises RunnerError when the step under way fails meanwhile.

    Rank 0 waits for that step too, in a collective which this rank never joins, and would send nothing more.
    """
    while under_way is not None and not select.select([link], [], [], LOOK_SECONDS)[0]:
        if under_way.ready():
            under_way = None
    return receive(link)


def main(rank: int, link: socket.socket, reports: Reports) -> None:
    die_with_parent()
    # Rank 0 decides when to stop; a Ctrl-C in the terminal reaches the whole process group, and some supervisors
    # tell every process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        runner = load(link)
        under_way: StepHandle | None = None
        with torch.inference_mode():  # for all steps: see ModelRunner.launch
            while (plan := next_plan(link, under_way)) is not None:
                under_way = runner.launch(decode_plan(plan))
    except ModelLoadError as error:
        fail(rank, error, link, reports)
        end_process(2)
    except Exception as error:
        traceback.print_exc()
        fail(rank, RunnerError(f"{type(error).__name__}: {error}"), link, reports)
        end_process(1)
    end_process(0)


def fail(rank: int, error: WorkerError, link: socket.socket, reports: Reports) -> None:
    reports.send(Report(rank, failure=str(error)))
    with contextlib.suppress(OSError):  # rank 0 may be gone
        report(link, error)


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    links = [socket.socket(fileno=int(word)) for word in sys.argv[2:]]
    main(int(sys.argv[1]), links[0], Reports(*links[1:]))
