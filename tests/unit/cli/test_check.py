"""`shoal check` on machines and checkpoints that are not well."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path

from services.cli.check import machine, model, network
from services.cli.check.result import FAIL, OK, WARN
from services.common.options import parse


def settings(*argv: str):
    return parse("up", argv, {})


def checkpoint(path: Path, *, cut: int = 0) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(16)
    (path / "model.safetensors").write_bytes(data[: len(data) - cut])
    return path


def statuses(path: Path) -> dict[str, str]:
    return {result.name: result.status for result in model.files(path, is_demo=False)}


def test_a_whole_checkpoint_passes(tmp_path: Path):
    assert statuses(checkpoint(tmp_path)) == {"model": OK, "tokenizer": OK, "weights": OK}


def test_half_a_download_is_found(tmp_path: Path):
    assert statuses(checkpoint(tmp_path, cut=5))["weights"] == FAIL
    (tmp_path / "model.safetensors").write_bytes(b"\x01")
    assert statuses(tmp_path)["weights"] == FAIL


def test_missing_shards_are_named(tmp_path: Path):
    path = checkpoint(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = {result.name: result for result in model.files(path, is_demo=False)}["weights"]
    assert found.status == FAIL
    assert "model-1.safetensors" in found.detail


def test_what_is_missing_beside_the_weights_is_told(tmp_path: Path):
    assert statuses(tmp_path / "none") == {"model": FAIL}
    path = checkpoint(tmp_path)
    (path / "tokenizer_config.json").write_text("{}")
    assert statuses(path)["tokenizer"] == WARN
    (path / "tokenizer.json").unlink()
    assert statuses(path)["tokenizer"] == FAIL
    (path / "config.json").write_text("{")
    assert statuses(path) == {"model": FAIL}


async def test_embedded_servers_are_tried_for_real():
    assert [r.status for r in await network.nats(settings())] == [OK]
    assert [r.status for r in await network.redis(settings())] == [OK]


async def test_servers_that_do_not_answer_fail_with_advice():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = await network.redis(settings("--redis_url", f"redis://127.0.0.1:{port}/0"))
    assert [r.status for r in found] == [FAIL]
    assert found[0].advice


def test_a_taken_port_fails_with_advice():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (found,) = network.ports(settings("--port", str(taken.getsockname()[1])))
    assert found.status == FAIL
    assert found.advice


def test_torch_is_looked_at_in_a_process_of_its_own():
    (found,) = machine.torch()
    assert found.status == OK


def test_gpus_that_are_asked_for_and_not_there_fail(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert [r.status for r in machine.gpus(settings("--device", "cuda"))] == [FAIL]
    assert [r.status for r in machine.gpus(settings())] == [OK]


def test_two_ranks_exchange_over_gloo():
    (found,) = machine.collectives(settings("--device", "cpu"))
    assert (found.name, found.status) == ("gloo", OK), found.detail
