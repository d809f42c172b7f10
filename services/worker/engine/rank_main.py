"""The process of rank 0: `python -m services.worker.engine.rank_main <socket fd> <reports fd>`, started by the control process.

It loads the model (and starts the further ranks), then runs the step loop until the socket closes.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # Reading torch's modules makes no garbage; looking for it takes a fifth of the time.

import contextlib
import logging
import os
import signal
import socket
import sys
import time

import msgpack
import torch

from services.common.logs import setup_logging
from services.worker.cache import PrefixCache
from services.worker.engine.channel import Channel, ChannelClosed
from services.worker.engine.engine import Engine, engine_info, scheduler_limits
from services.worker.engine.messages import Failed, Start
from services.worker.engine.requests import EngineConfig, SequenceFactory
from services.worker.errors import ModelLoadError, RankKilled
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.ranks import die_with_parent
from services.worker.runner.reports import Reports
from services.worker.runner.start import start_runner
from services.worker.scheduler import Scheduler

log = logging.getLogger(__name__)


def serve(channel: Channel, runner: Runner, config: EngineConfig) -> int:
    """Tells that the engine is ready and runs it to its end; returns the exit code. Raises ChannelClosed."""
    info = runner.info
    told = engine_info(info, config)
    cache = PrefixCache(info.num_blocks, info.block_size)
    engine = Engine(
        Scheduler(scheduler_limits(info, config), cache),
        runner,
        SequenceFactory(
            info.block_size,
            told.eos_ids,
            share_prefixes=config.share_prefixes,
            max_shared_prompt=info.max_shared_prompt,
        ),
        channel,
        depth=0 if info.device.startswith("cpu") else 1,
        clock=time.perf_counter,
    )
    # What loading made lives as long as the process: the collector need not look at it between steps.
    gc.collect()
    gc.freeze()
    channel.send(told)
    try:
        with torch.inference_mode():  # for all steps: see ModelRunner.launch
            engine.run()
    except ChannelClosed:
        raise
    except Exception as error:
        log.exception("the engine failed")
        suspects = [] if isinstance(error, RankKilled) else engine.to_blame()
        return _fail(channel, Failed(f"{type(error).__name__}: {error}", 1, suspects))
    return 0


def main(link: socket.socket, reports: Reports) -> int:
    # The control process decides when to stop; a Ctrl-C in the terminal reaches the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    channel = Channel(link)
    try:
        (start,) = channel.poll(timeout_s=60.0)
        assert isinstance(start, Start)
        setup_logging("worker-rank0", start.instance_id, level=start.log_level, log_format=start.log_format)
        runner = start_runner(RunnerConfig(**msgpack.unpackb(start.runner)), reports)
        config = msgpack.unpackb(start.engine)
        code = serve(channel, runner, EngineConfig(**(config | {"eos_ids": tuple(config["eos_ids"])})))
        if not code:  # a device that failed may never answer, and its memory goes with the process
            runner.close()
        return code
    except ChannelClosed:
        return 0
    except ModelLoadError as error:
        return _fail(channel, Failed(str(error), 2))
    except Exception as error:
        log.exception("the engine could not start")
        return _fail(channel, Failed(f"{type(error).__name__}: {error}", 1))


def _fail(channel: Channel, failed: Failed) -> int:
    with contextlib.suppress(ChannelClosed):
        channel.send(failed)
    return failed.exit_code


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    link, reports = (socket.socket(fileno=int(word)) for word in sys.argv[1:])
    code = main(link, Reports(reports))
    logging.shutdown()
    os._exit(code)  # libraries' threads must not keep a process that has nothing to do any more
