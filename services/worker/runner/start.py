"""Starts the model: in this process, and with `tp` above 1 in one more process per further rank."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist

from services.worker.errors import RunnerError, WorkerError
from services.worker.parallel.group import TensorParallel, join
from services.worker.runner.config import RunnerConfig
from services.worker.runner.handle import step_failed
from services.worker.runner.interface import Runner, RunnerInfo, StepHandle
from services.worker.runner.load import load_model, make_runner, pick_device
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import StepPlan, StepResult, encode_plan
from services.worker.runner.ranks import GRACE_SECONDS, RankProcesses
from services.worker.runner.reports import Report, Reports


def start_runner(config: RunnerConfig, reports: Reports | None = None) -> Runner:
    """Loads the model on every rank and returns when steps can run. Raises ModelLoadError or RunnerError.

    reports: to whoever supervises the ranks, since this call may hang where one of them is gone.
    """
    reports = reports or Reports()
    device = pick_device(config, rank=0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.tp == 1:
        local, info = make_runner(config, load_model(config, TensorParallel(), device))
        return RootRunner(local, info, None)
    store = dist.TCPStore("127.0.0.1", 0, config.tp, is_master=True, wait_for_workers=False)
    ranks = RankProcesses(config, store.port, reports)
    try:
        local, info = _load_beside(ranks, config, store, device)
    except BaseException as error:
        # First of all, since the rest may wait for the device.
        reports.send(Report(0, failure=str(error) or type(error).__name__))
        ranks.kill()
        with contextlib.suppress(RuntimeError):  # what a broken device says to this is not the reason
            if dist.is_initialized():
                dist.destroy_process_group()
        raise
    return RootRunner(local, info, ranks)


def _load_beside(
    ranks: RankProcesses, config: RunnerConfig, store: dist.Store, device: torch.device
) -> tuple[ModelRunner, RunnerInfo]:
    """Rank 0's part of loading, with the others' words awaited. Another rank's failure counts more than what it caused."""
    try:
        tp = join(0, config.tp, store, device, use_peer_memory=config.peer_memory)
        loaded = load_model(config, tp, device)
        ranks.wait_until_loaded()
        made = make_runner(config, loaded)
        ranks.wait_until_loaded()
        return made
    except WorkerError:
        raise
    except Exception:
        ranks.check_loading()  # a collective fails because another rank is gone; say why, if one is
        raise


class RootRunner:
    """Rank 0: runs each plan itself after sending it to the other ranks. Implements Runner."""

    def __init__(self, local: ModelRunner, info: RunnerInfo, ranks: RankProcesses | None) -> None:
        self.info = info
        self._local: ModelRunner | None = local
        self._ranks = ranks

    def launch(self, plan: StepPlan) -> StepHandle:
        if self._local is None:
            raise RunnerError("the runner is closed")
        try:
            return self._launch(self._local, plan)
        except WorkerError:
            raise
        except Exception as error:
            if self._ranks is not None:
                self._ranks.check(GRACE_SECONDS)  # a rank that is gone explains it, and it says which
            raise step_failed(plan.step, error) from error

    def _launch(self, local: ModelRunner, plan: StepPlan) -> StepHandle:
        if self._ranks is None:
            return local.launch(plan)
        self._ranks.broadcast(encode_plan(plan))
        return RankedHandle(local.launch(plan), self._ranks)

    def close(self) -> None:
        if self._local is None:
            return
        self._local = None
        if self._ranks is not None:
            self._ranks.close()
            dist.destroy_process_group()


class RankedHandle:
    """A step that other ranks take part in: waiting for it watches that they live, since a collective would not."""

    def __init__(self, handle: StepHandle, ranks: RankProcesses) -> None:
        self._handle = handle
        self._ranks = ranks

    def ready(self) -> bool:
        try:
            if self._handle.ready():
                return True
        except RunnerError:
            self._ranks.check(GRACE_SECONDS)  # a rank that ended is the cause, and says more
            raise
        self._ranks.check()
        return False

    def result(self) -> StepResult:
        while not self.ready():
            self._ranks.pause()
        return self._handle.result()
