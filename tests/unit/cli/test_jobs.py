"""What `test` runs, beside what, and what it makes of how its jobs end."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path

import psutil
import pytest

from services.cli.jobs import Job, Jobs, Tally, judge, read_summary
from services.cli.rundir import REPO
from services.cli.screen import Screen
from services.cli.testing import groups, seconds
from services.common.options import OptionError
from tests.fakes.waiting import until

TESTS = Job("some", ("pytest",), is_pytest=True)


def test_pytest_s_last_line_is_counted():
    lines = [
        "1 passed in 3s, said a test",
        "=== 2 failed, 40 passed, 3 skipped, 1 error, 1 warning in 2.10s ===",
    ]
    assert read_summary(lines) == Tally(passed=40, failed=3, skipped=3)


@pytest.mark.parametrize(
    ("code", "line", "expected", "told"),
    [
        (0, "5 passed in 1s", Tally(passed=5), ""),
        (0, "9 skipped in 1s", Tally(skipped=9), ""),
        (1, "1 failed, 4 passed in 1s", Tally(passed=4, failed=1), ""),
        (5, "no tests ran in 0.01s", Tally(failed=1), "collected no test"),
        (5, "30 deselected in 0.01s", Tally(failed=1), "collected no test"),
        (4, "ERROR: file or directory not found: x", Tally(failed=1), "called wrongly"),
        (3, "5 passed in 1s", Tally(passed=5, failed=1), "internal error"),
        (-9, "", Tally(failed=1), "killed by SIGKILL"),
        (1, "5 passed in 1s", Tally(passed=5, failed=1), "exited with 1"),
        (0, "", Tally(failed=1), "exited with 0"),
    ],
)
def test_a_run_that_did_not_get_to_its_end_counts_as_a_failure(
    code: int, line: str, expected: Tally, told: str
):
    tally, problem = judge(TESTS, code, [line])
    assert tally == expected
    assert told in problem
    assert bool(problem) == bool(told)


def python(name: str, code: str) -> Job:
    return Job(name, (sys.executable, "-c", code))


def run(directory: Path, shown: list[Job], beside: list[Job], num_beside: int = 1) -> tuple[Jobs, str]:
    out = io.StringIO()
    # Plugins take pytest seconds to load, and a minute with what little processor time is left beside other jobs.
    jobs = Jobs(os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, Screen(out), directory)
    asyncio.run(jobs.run(shown, beside, num_beside))
    return jobs, out.getvalue()


def test_jobs_run_beside_each_other_with_less_claim_to_the_processor(tmp_path: Path):
    """Each waits for the other's file, so that neither would end if one came after the other."""
    wait = "import os, pathlib, time\npathlib.Path('{mine}').write_text(str(os.nice(0)))\n"
    wait += "while not pathlib.Path('{other}').exists(): time.sleep(0.01)"
    shown = python("shown", wait.format(mine="a", other="b"))
    jobs, _ = run(tmp_path, [shown], [python("beside", wait.format(mine="b", other="a"))])
    assert jobs.total == Tally(passed=2)
    assert int((tmp_path / "b").read_text()) == min(19, int((tmp_path / "a").read_text()) + 10)


def test_when_nothing_is_left_to_run_beside_what_comes_last_runs_there(tmp_path: Path):
    """The first waits for the last, so that it would never end if that came after it."""
    wait = "import pathlib, time\nwhile not pathlib.Path('third').exists(): time.sleep(0.01)"
    niceness = "import os, pathlib; pathlib.Path('{0}').write_text(str(os.nice(0)))"
    shown = [python("first", wait), *(python(name, niceness.format(name)) for name in ("second", "third"))]
    jobs, _ = run(tmp_path, shown, [python("beside", niceness.format("beside"))])
    assert jobs.total == Tally(passed=4)
    assert (tmp_path / "third").read_text() == (tmp_path / "beside").read_text()


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_who_is_interrupted_ends_all_that_runs_beside(tmp_path: Path):
    """Ctrl-C in a terminal does not reach them: they have sessions of their own."""
    code = "import pathlib, subprocess, time; child = subprocess.Popen(['sleep', '60']); "
    code += "pathlib.Path('pid').write_text(str(child.pid)); time.sleep(60)"
    jobs = Jobs(os.environ, Screen(io.StringIO()), tmp_path)
    running = asyncio.create_task(jobs.run([], [python("long", code)]))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "its child", 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    child = int((tmp_path / "pid").read_text())
    await until(lambda: has_ended(child), "its end")


def test_counts_are_summed_and_what_failed_beside_is_shown_whole(tmp_path: Path):
    (tmp_path / "test_it.py").write_text("def test_well(): pass\ndef test_bad(): assert 'red' == 'green'\n")
    own = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py")
    jobs, said = run(
        tmp_path,
        [Job("one", (*own, "-k", "well"), is_pytest=True), Job("none", (*own, "-k", "x"), is_pytest=True)],
        [python("quiet", "print('not of interest')"), Job("two", own, is_pytest=True)],
    )
    assert jobs.total == Tally(passed=3, failed=2)  # 1 + nothing, 1 + 1
    assert sorted(jobs.failed) == ["none", "two"]
    assert "✗ none: 0 passed, 1 failed, 0 skipped: it collected no test" in said
    assert "assert 'red' == 'green'" in said
    assert "not of interest" not in said


def test_every_folder_of_tests_but_the_containers_is_run_once(tmp_path: Path):
    waiting, computing = groups(REPO / "tests")
    parts = ["bus", "detokenizer", "gateway", "kvstore", "router", "worker"]
    assert [job.name for job in waiting] == ["faults", "e2e", *(f"integration/{part}" for part in parts)]
    assert [job.name for job in computing] == ["simulation", "unit", "kernels", "gpu"]
    for name in ("new/deep", "integration/part"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test_x.py").touch()
    (tmp_path / "test_y.py").touch()
    assert [job.name for job in groups(tmp_path)[0]] == ["integration/part", "new", "test_y.py"]


def test_durations():
    assert [seconds(text) for text in ("90", "90s", "30m", "1.5h")] == [90, 90, 1800, 5400]
    with pytest.raises(OptionError):
        seconds("soon")
