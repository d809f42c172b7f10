"""Docker or podman, by the few commands that the tests need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Engine:
    """``compose`` is its compose command. Health checks run by hand: podman has no timer without systemd."""

    command: str
    compose: tuple[str, ...]

    @classmethod
    def find(cls) -> Engine | None:
        if shutil.which("podman") and shutil.which("podman-compose"):
            return cls("podman", ("podman-compose", "--podman-build-args=--network=host"))
        if shutil.which("docker") and _works("docker", "info") and _works("docker", "compose", "version"):
            return cls("docker", ("docker", "compose"))
        return None

    def run(self, *words: str, timeout_s: float = 120.0, check: bool = True) -> str:
        done = subprocess.run([self.command, *words], capture_output=True, text=True, timeout=timeout_s)
        assert not check or done.returncode == 0, f"{self.command} {' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout.strip()

    def image_bytes(self, image: str) -> int:
        return int(self.run("image", "inspect", "--format", "{{.Size}}", image))

    def is_healthy(self, container: str) -> tuple[bool, str]:
        """Runs the container's own health check in it, whoever's timer would do so otherwise."""
        if self.command == "podman":
            done = subprocess.run(
                ["podman", "healthcheck", "run", container], capture_output=True, text=True, timeout=30
            )
            return done.returncode == 0, done.stdout + done.stderr
        status = self.run("inspect", "--format", "{{.State.Health.Status}}", container)
        return status == "healthy", status

    def has_health_check(self, container: str) -> bool:
        config = json.loads(self.run("inspect", container))[0]["Config"]
        return bool(config.get("Healthcheck"))


def _works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class Stack:
    """One compose project with a name of its own."""

    engine: Engine
    project: str
    env: Mapping[str, str]

    def compose(self, *words: str, timeout_s: float = 1800.0) -> str:
        done = subprocess.run(
            [*self.engine.compose, "-p", self.project, *words],
            cwd=REPO,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, (
            f"compose {' '.join(words)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout

    def scale(self, **counts: int) -> None:
        """As many containers of each service. podman-compose takes one --scale a call, and leaves others as they are."""
        words = [("--scale", f"{service}={count}") for service, count in counts.items()]
        if self.engine.command == "podman":
            for pair in words:
                self.compose("up", "-d", *pair)
        else:
            self.compose("up", "-d", *(word for pair in words for word in pair))

    def down(self) -> None:
        """Ends and removes all of it, scaled copies too."""
        self.compose("down", "-v", "--remove-orphans", "-t", "20")

    def containers(self, service: str = "", *, running: bool = True) -> list[str]:
        words = [
            "ps",
            "--format",
            "{{.Names}}",
            "--filter",
            f"label=com.docker.compose.project={self.project}",
        ]
        if service:
            words += ["--filter", f"label=com.docker.compose.service={service}"]
        return sorted(self.engine.run(*words, *([] if running else ["--all"])).split())

    def address(self, container: str) -> str:
        """Where the machine reaches a gateway."""
        return "http://" + self.engine.run("port", container, "8000").splitlines()[0]

    def wait_healthy(self, containers: Sequence[str], timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        for container in containers:
            while True:
                is_healthy, said = self.engine.is_healthy(container)
                if is_healthy:
                    break
                if time.monotonic() > deadline:
                    log = self.engine.run("logs", "--tail", "30", container, check=False)
                    raise AssertionError(f"{container} is not healthy: {said}\n{log}")
                time.sleep(0.5)
