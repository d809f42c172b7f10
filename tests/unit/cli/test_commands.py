"""The command line's own surface."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import __main__ as entry
from services.cli.options import markdown
from services.cli.rundir import REPO


def run(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "services.cli", *argv],
        capture_output=True,
        text=True,
        cwd=REPO,
        env=os.environ | (env or {}),
        timeout=60,
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert entry.main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in entry.COMMANDS)


@pytest.mark.parametrize("command", sorted(entry.COMMANDS))
def test_every_command_has_help(command: str):
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"shoal {command}" in done.stdout


def test_unknown_command_is_one_line():
    done = run("upp")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_options_page_is_current():
    assert (REPO / "docs" / "options.md").read_text() == markdown(), (
        "run ./shoal options --markdown > docs/options.md"
    )


def test_config_shows_sources_and_hides_secrets():
    done = run("config", "--tensor-parallel-size", "2", env={"SHOAL_API_KEYS": "sk-1"})
    assert "tp = 2  (flag)" in done.stdout
    assert "api_keys = ***  (environment SHOAL_API_KEYS)" in done.stdout
    assert "sk-1" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--model_dir", "/nowhere"], "no such directory"),
        (["--modeldir", "x"], "the closest is --model_dir"),
        (["--tp", "0"], "under the minimum"),
    ],
)
def test_up_refuses_what_is_wrong_in_one_line_before_it_starts_anything(argv, reason, tmp_path: Path):
    done = run("up", *argv, env={"SHOAL_STATE_DIR": str(tmp_path / "state")})
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "state").exists()


def test_up_names_the_port_that_is_taken(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("up", "--model_dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_down_and_status_say_that_nothing_is_up(tmp_path: Path):
    for command in ("down", "status"):
        done = run(command, env={"SHOAL_STATE_DIR": str(tmp_path)})
        assert (done.returncode, done.stderr) == (
            2,
            f"shoal {command}: nothing is up; start it with ./shoal up\n",
        )


def test_the_command_line_imports_neither_torch_nor_a_service():
    code = (
        "import sys, importlib; from services.cli.__main__ import COMMANDS\n"
        "for module, _ in COMMANDS.values(): importlib.import_module(module)\n"
        "own = ('services.cli', 'services.common', 'services')\n"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('services.') and not m.startswith(own[:2])])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
