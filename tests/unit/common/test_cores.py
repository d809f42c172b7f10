import os
from pathlib import Path

import pytest

from services.common.cores import threads_per_rank, usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        (f"{ALL * 100000 + 50000} 100000\n", ALL),
        ("6400000 100000\n", min(ALL, 64)),
        ("max 100000\n", ALL),
        ("", ALL),
    ],
)
def test_a_container_s_share_of_time_counts_as_cores(tmp_path: Path, text: str, cores: int) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert usable_cores(quota) == cores


def test_without_control_groups_all_cores_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == ALL


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (8, 16, 1)]
)
def test_ranks_share_all_cores_but_one(cores: int, ranks: int, threads: int) -> None:
    assert threads_per_rank(cores, ranks) == threads
