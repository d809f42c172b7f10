"""A step that cannot be run raises, soon, and says which step and why; whatever part of the machine broke it.

The same cases run on cpu, where ranks speak gloo and memory ends at a limit of the process.
"""

import json
import os
import time

import pytest
import torch

NUM_GPUS = torch.cuda.device_count()
START_S = 180.0  # importing torch, loading, capturing; compiling kernels on a machine that never did
RAISE_S = 20.0

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(NUM_GPUS < 1, reason="no GPU")),
]
DEVICES_OF_TWO = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(NUM_GPUS < 2, reason="fewer than two GPUs")),
]
# What the message must name, by device.
CAUSES = {
    "block_in_prefill": {"cpu": "Error", "cuda": "CUDA"},
    "block_in_long_prefill": {"cpu": "Error", "cuda": "CUDA"},
    "block_in_decode": {"cpu": "Error", "cuda": "CUDA"},
    "device_assert": {"cpu": "index", "cuda": "CUDA"},
    "long_chunk": {"cpu": "Error", "cuda": "Error"},
    "slot": {"cpu": "IndexError", "cuda": "IndexError"},
    "out_of_memory": {"cpu": "memory", "cuda": "out of memory"},
}


def failure(run_apart, case: str, device: str) -> dict:
    """What the runner raised; its further ranks must end with it."""
    done = run_apart("failing_step.py", case, device, timeout_s=START_S + 2 * RAISE_S)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(case, device, said)
    assert said["error"] in ("RunnerError", "RankKilled"), (said, done.stderr[-4000:])
    assert said["seconds"] < RAISE_S, said
    deadline = time.monotonic() + RAISE_S
    while any(map(is_running, said["ranks"])):
        assert time.monotonic() < deadline, "a further rank outlives rank 0"
        time.sleep(0.05)
    return said


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CAUSES)
def test_a_step_that_cannot_be_run_raises_and_names_the_cause(run_apart, case, device):
    said = failure(run_apart, case, device)
    assert f"step {said['step']} failed" in said["message"]
    assert CAUSES[case][device] in said["message"]


@pytest.mark.parametrize("device", DEVICES_OF_TWO)
def test_a_rank_killed_in_mid_step_is_named(run_apart, device):
    said = failure(run_apart, "rank_killed", device)
    assert (said["error"], said["message"]) == ("RankKilled", "rank 1 was killed by signal 9")


@pytest.mark.parametrize("device", DEVICES_OF_TWO)
def test_an_error_on_another_rank_alone_is_named_with_its_cause(run_apart, device):
    message = failure(run_apart, "rank_fails_alone", device)["message"]
    assert message.startswith(("rank 1 failed: ", "rank 1 is gone, exit code -6")), message
