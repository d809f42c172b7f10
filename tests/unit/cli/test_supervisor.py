"""The supervisor with real processes that are a line of shell each."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from pathlib import Path

import psutil
import pytest

from services.cli.plan import ProcessSpec
from services.cli.process import exit_text, log_tail
from services.cli.screen import Screen
from services.cli.supervisor import LAST_DELAY_S, Supervisor, restart_delay
from services.common.errors import ConfigError


def shell(instance_id: str, script: str, service: str = "worker") -> ProcessSpec:
    return ProcessSpec(service, instance_id, ("/bin/sh", "-c", script), dict(os.environ))


def supervisor(tmp_path: Path, *, restart: bool = True) -> Supervisor:
    return Supervisor(lambda name: tmp_path / f"{name}.log", Screen(io.StringIO()), restart=restart)


def said(keeper: Supervisor) -> str:
    return keeper.screen._out.getvalue()  # type: ignore[attr-defined]


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def test_delays_double_and_end_at_a_limit():
    delays = [restart_delay(n) for n in range(1, 12)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == LAST_DELAY_S


async def test_a_dead_process_is_started_again_and_its_log_is_shown(tmp_path: Path):
    keeper, marks = supervisor(tmp_path), tmp_path / "starts"
    await keeper.start(
        shell("worker-1", f"echo x >> {marks}; echo the reason; [ $(wc -l < {marks}) -ge 2 ] && sleep 60")
    )
    keeper.mark_ready("worker-1")
    await until(lambda: marks.exists() and len(marks.read_text().splitlines()) == 2)
    assert "the reason" in said(keeper)
    assert "starting it again" in said(keeper)
    await keeper.stop(5.0, asyncio.Event())
    assert keeper.num_crashes == 1


async def test_without_health_monitor_the_dead_stay_dead(tmp_path: Path):
    keeper, marks = supervisor(tmp_path, restart=False), tmp_path / "starts"
    await keeper.start(shell("worker-1", f"echo x >> {marks}; exit 3"))
    keeper.mark_ready("worker-1")
    await until(lambda: "stays down" in said(keeper))
    await asyncio.sleep(restart_delay(1) * 2)
    assert marks.read_text() == "x\n"
    await keeper.stop(5.0, asyncio.Event())


async def test_a_wrong_setting_ends_up_with_the_service_s_own_line(tmp_path: Path):
    keeper = supervisor(tmp_path)
    await keeper.start(
        shell("worker-1", "echo loading; echo 'shoal worker: weights are missing' >&2; exit 2")
    )
    with pytest.raises(ConfigError, match=r"^worker: weights are missing$"):
        await asyncio.wait_for(keeper.failed, 60)
    await keeper.stop(5.0, asyncio.Event())


async def test_a_service_that_never_gets_ready_is_given_up(tmp_path: Path):
    keeper = supervisor(tmp_path)
    await keeper.start(shell("worker-1", "echo no module; exit 1"))
    with pytest.raises(ConfigError, match=r"(?s)exited with 1 3 times without becoming ready.*no module"):
        await asyncio.wait_for(keeper.failed, 60)
    await keeper.stop(5.0, asyncio.Event())


async def test_services_are_stopped_in_order(tmp_path: Path):
    keeper, order = supervisor(tmp_path), tmp_path / "order"
    for service in ("nats", "worker", "gateway"):
        script = (
            f"trap 'sleep 0.1; echo {service} >> {order}; exit 0' TERM; echo up; while :; do sleep 0.05; done"
        )
        await keeper.start(shell(service, script, service))
    await until(lambda: all(log_tail(tmp_path / f"{s}.log", 1) for s in ("nats", "worker", "gateway")))
    await keeper.stop(60.0, asyncio.Event())
    assert order.read_text().split() == ["gateway", "worker", "nats"]
    assert keeper.num_crashes == 0


async def test_who_does_not_stop_is_killed(tmp_path: Path):
    keeper = supervisor(tmp_path)
    await keeper.start(shell("worker-1", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await until(lambda: log_tail(tmp_path / "worker-1.log", 1))
    await keeper.stop(0.3, asyncio.Event())
    assert "did not stop" in said(keeper)
    assert keeper.num_crashes == 1


async def test_told_twice_it_waits_for_nobody(tmp_path: Path):
    keeper, hurry = supervisor(tmp_path), asyncio.Event()
    await keeper.start(shell("worker-1", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await until(lambda: log_tail(tmp_path / "worker-1.log", 1))
    stopping = asyncio.ensure_future(keeper.stop(600.0, hurry))
    await asyncio.sleep(0.05)
    hurry.set()
    await asyncio.wait_for(stopping, 60)


async def test_what_a_dead_process_had_started_goes_with_it(tmp_path: Path):
    keeper = supervisor(tmp_path, restart=False)
    await keeper.start(shell("worker-1", "sleep 300 & echo $!; sleep 300"))
    keeper.mark_ready("worker-1")
    await until(lambda: log_tail(tmp_path / "worker-1.log", 1))
    rank = int(log_tail(tmp_path / "worker-1.log", 1)[0])
    parent = psutil.Process(rank).parent()
    assert parent is not None
    parent.send_signal(signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(rank) or psutil.Process(rank).status() == psutil.STATUS_ZOMBIE)
    await keeper.stop(5.0, asyncio.Event())


def test_exits_are_told_in_words():
    assert exit_text(3) == "exited with 3"
    assert exit_text(-9) == "was killed by SIGKILL"


def test_the_end_of_a_long_log_is_found_without_reading_it_all(tmp_path: Path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {i}\n" for i in range(200_000)))
    assert log_tail(path, 2) == ["line 199998", "line 199999"]
