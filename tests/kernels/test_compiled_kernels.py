"""The kernels as Triton compiles them, which its interpreter does not show: for which GPUs, and how many variants.

A process of its own each: here Triton interprets.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
REPO = Path(__file__).resolve().parents[2]


def run_uninterpreted(*command: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPO, env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def variants() -> list[dict[str, Any]]:
    return run_uninterpreted("-m", "bench.kernels.aot", "--variants")


def test_nothing_that_changes_from_step_to_step_is_compiled_in(variants: list[dict[str, Any]]) -> None:
    assert [row for row in variants if row["varies"]] == []
    never = [row["kernel"] for row in variants if not row["launches"]]
    assert never == [], "kernels that no case launches"


# The GPUs with the least shared memory take most; the larger ones what takes the most of it.
COMPILED = [
    "86:^(simple|rope 80|decode 112|prefill 80|rank sum 16384.*|gemv silu norm|sampling restricted processed logprobs)$",
    "80,86,89,90:^decode 256$",
    "80,90:^prefill 128$",
    "90:^(hopper 128 blocks of 16|tuned prefill 256 blocks of 16|skinny 14336x4096-silu up to 64)$",
]


@pytest.mark.timeout(600)
def test_every_kernel_compiles_for_ampere_and_later_and_fits_its_shared_memory(
    variants: list[dict[str, Any]],
) -> None:
    """Some sizes here, for 50 seconds of CPU; SHOAL_ALL_KERNELS=1 takes all of them, for ten minutes."""
    selections = [] if os.environ.get("SHOAL_ALL_KERNELS") else COMPILED
    rows = run_uninterpreted("-m", "bench.kernels.aot", "--json", *selections)
    assert [row for row in rows if not row["fits"]] == []
    assert {row["kernel"] for row in rows} == {row["kernel"] for row in variants}
    assert {row["gpu"] for row in rows if row["kernel"] == "attention.decode.decode_kernel"} == {
        80,
        86,
        89,
        90,
    }
