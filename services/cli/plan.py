"""Which processes `up` runs, with which settings. Pure: from settings and a machine to process specifications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.common.cores import threads_per_rank
from services.common.errors import ConfigError
from services.common.model_files import model_name, model_path
from services.common.options import Settings, environment
from services.common.options.parse import options_of

# Clients' streams end first, then what feeds them; nobody loses the service it still needs.
STOP_ORDER = ("gateway", "router", "worker", "detokenizer", "kvstore", "redis", "nats")


@dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process. ``env`` holds all of its settings, secrets among them: argv is readable by everyone."""

    service: str
    instance_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Backing:
    """The servers under the services: embedded ones or those that the settings name."""

    settings: Mapping[str, str] = field(repr=False)  # SHOAL_NATS_... and SHOAL_REDIS_URL
    id_suffix: str = ""  # keeps ids apart where several `up` share one NATS
    has_redis: bool = True


def gpu_slices(num_workers: int, tp: int, gpus: Sequence[str], mem_fraction: float) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker.

    Workers of one GPU may share it where their shares of its memory fit together.
    Raises ConfigError where the GPUs are too few.
    """
    if num_workers * tp <= len(gpus):
        return [",".join(gpus[i * tp : (i + 1) * tp]) for i in range(num_workers)]
    per_gpu = -(-num_workers // len(gpus))
    if tp == 1 and per_gpu * mem_fraction <= 1.0:
        return [gpus[i % len(gpus)] for i in range(num_workers)]
    share = f", or share one by --mem_fraction {0.9 / per_gpu:.2f}" if tp == 1 else ""
    raise ConfigError(
        f"{num_workers} workers of --tp {tp} need {num_workers * tp} GPUs and there are {len(gpus)}: "
        f"take fewer{share}"
    )


def model_of(settings: Settings) -> tuple[Path, str]:
    """The checkpoint's directory and the name that clients use. Raises ConfigError where it is none."""
    path = model_path(settings.model_dir)
    if not (path / "config.json").is_file():
        raise ConfigError(f"--model_dir {path}: no config.json there, so it is no Hugging Face checkpoint")
    return path.resolve(), model_name(settings.model_name, settings.model_dir)


def counts(settings: Settings, backing: Backing) -> dict[str, int]:
    return {
        "kvstore": settings.kvstores if backing.has_redis else 0,
        "detokenizer": settings.detokenizers,
        "router": settings.routers,
        "worker": settings.workers,
        "gateway": settings.gateways,
    }


def plan_services(
    settings: Settings,
    machine: Machine,
    backing: Backing,
    *,
    model: tuple[Path, str],
    gateway_ports: Sequence[int],
    base_env: Mapping[str, str],
    python: str,
) -> list[ProcessSpec]:
    """Every service's process. ``base_env`` is what they inherit, without SHOAL_ settings."""
    uses_gpus = settings.device == "cuda" or (settings.device == "auto" and bool(machine.gpus))
    if uses_gpus and not machine.gpus:
        raise ConfigError("--device cuda: this machine shows no NVIDIA GPU; see ./shoal check")
    placement = (
        gpu_slices(settings.workers, settings.tp, machine.gpus, settings.mem_fraction) if uses_gpus else []
    )
    threads = settings.threads or threads_per_rank(machine.cores, settings.workers * settings.tp)
    common = environment(settings) | dict(backing.settings)
    common |= {"SHOAL_MODEL_DIR": str(model[0]), "SHOAL_MODEL_NAME": model[1], "SHOAL_HEALTH_PORT": "0"}
    own: dict[str, Callable[[int], dict[str, str]]] = {
        "gateway": lambda i: {"SHOAL_PORT": str(gateway_ports[i])},
        "worker": lambda i: {
            "SHOAL_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            **({"CUDA_VISIBLE_DEVICES": placement[i]} if placement else {}),
        },
    }
    specs = []
    for service, count in counts(settings, backing).items():
        known = {option.env for option in options_of(service)}
        for i in range(count):
            instance_id = f"{service}-{i + 1}{backing.id_suffix}"
            # Each service sees its own settings only: the gateway's keys are no business of a worker.
            chosen = {k: v for k, v in common.items() if k in known} | {"SHOAL_INSTANCE_ID": instance_id}
            env = {**base_env, **chosen, **own.get(service, lambda _: {})(i)}
            specs.append(ProcessSpec(service, instance_id, (python, "-m", f"services.{service}"), env))
    return specs
