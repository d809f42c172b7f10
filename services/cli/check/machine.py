"""Python, torch, GPUs, collectives, memory and disk. torch runs in processes of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from services.cli.check.result import Result, fail, ok, warn
from services.cli.machine import usable_cores, visible_gpus
from services.cli.rundir import REPO
from services.common.options import Settings

GIB = 1024**3
OLDEST_TORCH, NEWEST_TORCH = (2, 11), (2, 13)
TIMEOUT_S = 180.0


def python() -> list[Result]:
    version = ".".join(map(str, sys.version_info[:3]))
    return [ok("python", f"{version} at {sys.executable}, {usable_cores()} cores")]


def torch() -> list[Result]:
    code = (
        "import json, torch\n"
        "print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, "
        "'available': torch.cuda.is_available()}))"
    )
    found = _run_json([sys.executable, "-c", code])
    if "error" in found:
        return [fail("torch", found["error"], "remove .venv and run ./shoal again to install torch anew")]
    detail = f"{found['version']}, CUDA {found['cuda'] or 'none'}"
    version = tuple(int(part) for part in found["version"].split(".")[:2])
    if not OLDEST_TORCH <= version <= NEWEST_TORCH:
        return [warn("torch", detail, "versions 2.11 to 2.13 are tested; install one of them")]
    if visible_gpus() and not found["available"]:
        advice = (
            "this torch cannot use the GPUs: install a CUDA build that fits the driver, then remove .venv"
        )
        return [fail("torch", detail, advice)]
    return [ok("torch", detail)]


def gpus(settings: Settings) -> list[Result]:
    if not shutil.which("nvidia-smi"):
        if settings.device == "cuda":
            return [fail("gpus", "no nvidia-smi", "install NVIDIA's driver, or use --device cpu")]
        return [ok("gpus", "none; models run on the CPU")]
    query = [
        "nvidia-smi",
        "--query-gpu=index,name,memory.total,memory.used,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [fail("gpus", str(error), "the driver does not answer; see dmesg, then reload it or restart")]
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["nvidia-smi failed"]
        return [
            fail(
                "gpus",
                reason[0],
                "reload NVIDIA's driver or restart the machine; in a container, pass the GPUs in",
            )
        ]
    results = [_gpu(line) for line in done.stdout.strip().splitlines()]
    needed = settings.tp * settings.workers
    if needed > len(results) and settings.device != "cpu":
        advice = "use fewer --workers or a smaller --tp"
        results.append(fail("gpus", f"{needed} are needed, {len(results)} are there", advice))
    return results


def _gpu(line: str) -> Result:
    index, name, total, used, driver = (part.strip() for part in line.split(","))
    total_mib, used_mib = (float(text.split()[0]) for text in (total, used))
    detail = f"{name}, {used_mib / 1024:.1f} of {total_mib / 1024:.0f} GiB used, driver {driver}"
    if used_mib > 0.1 * total_mib:
        return warn(f"gpu {index}", detail, "somebody uses it; see nvidia-smi, or lower --mem_fraction")
    return ok(f"gpu {index}", detail)


def collectives(settings: Settings) -> list[Result]:
    """An all-reduce between two processes: gloo, and NCCL where there are GPUs, also inside a CUDA graph."""
    runs = [("gloo", 2)]
    num_gpus = len(visible_gpus())
    if num_gpus and settings.device != "cpu":
        runs.append(("nccl", max(1, min(num_gpus, max(2, settings.tp)))))
    return [_all_reduce(backend, world) for backend, world in runs]


def _all_reduce(backend: str, world_size: int) -> Result:
    command = [sys.executable, "-m", "services.worker.parallel.check", backend, str(world_size)]
    found = _run_json(command)
    name = f"{backend}"
    if "error" in found:
        advice = {
            "gloo": "is 127.0.0.1 up, and may processes open ports on it? GLOO_SOCKET_IFNAME names an interface",
            "nccl": "run again with NCCL_DEBUG=INFO; try NCCL_P2P_DISABLE=1, NCCL_NVLS_ENABLE=0 or a larger /dev/shm",
        }[backend]
        return fail(name, found["error"], advice)
    graph = ", also in a CUDA graph" if found.get("in_graph") else ""
    single = " (one GPU: nothing to exchange)" if world_size == 1 else ""
    return ok(
        name, f"all-reduce of {world_size} ranks{single}{graph}, {found['seconds']:.1f} s with start-up"
    )


def memory() -> list[Result]:
    found = psutil.virtual_memory()
    detail = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB available"
    if found.available < 2 * GIB:
        return [warn("memory", detail, "end other programs: even the demo model wants about 2 GiB")]
    return [ok("memory", detail)]


def disk(root: Path) -> list[Result]:
    place = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free at {place}"
    if free < GIB:
        return [warn("disk", detail, "logs need room: free some, or set SHOAL_STATE_DIR to another disk")]
    return [ok("disk", detail)]


def _run_json(command: list[str]) -> dict[str, Any]:
    """The JSON object that a program prints last; ``error`` with its last line where it prints none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=REPO)
        if done.returncode == 0:
            return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {TIMEOUT_S:.0f} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"error": str(error)}
    return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
