"""What `up` leaves for `status`, `down`, `chat` and `trace` to find: a private directory per run.

``<root>/run-<name>/`` holds ``state.json``, ``logs/<id>.log`` and the embedded servers' files. The root is
``.shoal`` beside the ``shoal`` script, or SHOAL_STATE_DIR. Everything is readable by its owner alone, because
the state holds the generated passwords.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from services.common.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
STARTING, READY, STOPPING = "starting", "ready", "stopping"


@dataclass(slots=True)
class RunState:
    """One running `up`. ``pid`` and ``pid_started`` together name a process beyond reuse of its number."""

    name: str
    pid: int
    pid_started: float  # seconds since 1970
    phase: str = STARTING
    model_name: str = ""
    gateways: list[str] = field(default_factory=list)  # base URLs
    services: dict[str, list[str]] = field(default_factory=dict)  # service -> instance ids
    bus: dict[str, str] = field(default_factory=dict)  # the SHOAL_ settings that reach its NATS
    redis_url: str = ""
    api_key: str = ""  # one that its gateways take, empty when none is needed

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.pid_started) < 2.0
            return is_it and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def state_root(env: Mapping[str, str]) -> Path:
    return Path(env.get("SHOAL_STATE_DIR") or REPO / ".shoal")


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @classmethod
    def create(cls, root: Path, name: str) -> RunDir:
        path = root / f"run-{name}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
            (path / "logs").mkdir()
        except OSError as error:
            raise ConfigError(
                f"cannot make {path}: {error.strerror}; choose another place with SHOAL_STATE_DIR"
            ) from error
        return cls(path)

    def log(self, instance_id: str) -> Path:
        return self.path / "logs" / f"{instance_id}.log"

    def write_private(self, name: str, text: str) -> Path:
        """A file that only its owner can read; replaced in one step, so a reader never sees half of it."""
        target, fresh = self.path / name, self.path / f".{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        fresh.replace(target)
        return target

    def save(self, state: RunState) -> None:
        self.write_private("state.json", json.dumps(asdict(state), indent=1))

    def load(self) -> RunState | None:
        """None while the state is not there, or is not one that this version wrote."""
        try:
            return RunState(**json.loads((self.path / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def clear(self, *, keep_logs: bool) -> None:
        if not keep_logs:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for entry in self.path.iterdir():
            if entry.name == "logs":
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def live_runs(root: Path) -> list[RunState]:
    """The runs whose `up` still lives, oldest first."""
    states = [RunDir(path).load() for path in sorted(root.glob("run-*"))]
    return sorted((s for s in states if s and s.is_alive()), key=lambda s: s.pid_started)


def remove_stale(root: Path) -> None:
    """Clears what runs left whose `up` was killed before it could: their state, with passwords, not their logs."""
    for path in root.glob("run-*"):
        state = RunDir(path).load()
        if state and not state.is_alive():
            RunDir(path).clear(keep_logs=True)


def choose_run(root: Path, name: str = "") -> RunState:
    """The run that was named, or the only one. Raises ConfigError in one line where that is nobody or unclear."""
    runs = live_runs(root)
    if name:
        runs = [run for run in runs if run.name == name]
    if not runs:
        raise ConfigError(f"no run {name!r} is up" if name else "nothing is up; start it with ./shoal up")
    if len(runs) > 1:
        listed = ", ".join(f"{run.name} ({' '.join(run.gateways)})" for run in runs)
        raise ConfigError(f"several are up: choose one with --run: {listed}")
    return runs[0]
