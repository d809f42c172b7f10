"""Which processes `up` would start, without starting any."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.plan import Backing, Machine, gpu_slices, model_of, plan_services
from services.common.errors import ConfigError
from services.common.options import Settings, parse

BACKING = Backing(
    {"SHOAL_NATS_URL": "nats://127.0.0.1:1", "SHOAL_NATS_PASSWORD": "n", "SHOAL_REDIS_URL": "r"}
)


def settings(*argv: str) -> Settings:
    return parse("up", argv, {})


def plan(*argv: str, machine: Machine | None = None, backing: Backing = BACKING):
    chosen = settings(*argv)
    return plan_services(
        chosen,
        machine or Machine(4),
        backing,
        model=(Path("/models/tiny"), "tiny"),
        gateway_ports=[8000 + i for i in range(chosen.gateways)],
        base_env={"PATH": "/bin"},
        python="python3",
    )


def test_every_service_is_planned_as_often_as_asked():
    specs = plan("--workers", "2", "--gateways", "3", "--routers", "2", "--detokenizers", "2")
    ids = [spec.instance_id for spec in specs]
    assert len(ids) == len(set(ids)) == 10
    assert [i for i in ids if i.startswith("gateway")] == ["gateway-1", "gateway-2", "gateway-3"]
    assert [s.env["SHOAL_PORT"] for s in specs if s.service == "gateway"] == ["8000", "8001", "8002"]


def test_each_service_gets_its_own_settings_and_no_more():
    specs = {s.service: s for s in plan("--api_keys", "secret", "--max_queue", "7", "--port", "9")}
    assert specs["gateway"].env["SHOAL_API_KEYS"] == "secret"
    assert [name for name, spec in specs.items() if "SHOAL_API_KEYS" in spec.env] == ["gateway"]
    assert [name for name, spec in specs.items() if "SHOAL_MAX_QUEUE" in spec.env] == ["router"]
    assert [name for name, spec in specs.items() if "SHOAL_REDIS_URL" in spec.env] == ["kvstore"]
    assert all(spec.env["SHOAL_NATS_URL"] == "nats://127.0.0.1:1" for spec in specs.values())
    assert all(spec.env["SHOAL_MODEL_NAME"] == "tiny" for spec in specs.values())


def test_no_secret_is_on_a_command_line():
    for spec in plan("--api_keys", "secret"):
        assert not any("secret" in word or word == "n" for word in spec.argv)
        assert "secret" not in repr(spec)


def test_what_a_person_chose_reaches_the_planned_process_as_the_same_value():
    worker = next(
        s for s in plan("--chunked_prefill_size", "48", "--dtype", "float32") if s.service == "worker"
    )
    assert parse("worker", [], worker.env).chunked_prefill_size == 48
    assert parse("worker", [], worker.env).data_type == "float32"


def test_cores_are_shared_by_workers_and_ranks():
    threads = [
        s.env["SHOAL_THREADS"] for s in plan("--workers", "2", machine=Machine(8)) if s.service == "worker"
    ]
    assert threads == ["3", "3"]
    one = next(s for s in plan("--tp", "16", machine=Machine(8)) if s.service == "worker")
    assert one.env["SHOAL_THREADS"] == "1"


def test_ids_of_two_deployments_on_one_nats_differ():
    ids = {s.instance_id for s in plan(backing=Backing(BACKING.settings, "-ab12cd"))}
    assert ids.isdisjoint(s.instance_id for s in plan())


def test_without_redis_there_is_no_kvstore():
    specs = plan(backing=Backing({"SHOAL_NATS_URL": "x"}, has_redis=False))
    assert "kvstore" not in {s.service for s in specs}


def test_workers_take_neighbouring_gpus():
    machine = Machine(8, ("0", "1", "2", "3"))
    workers = [s for s in plan("--workers", "2", "--tp", "2", machine=machine) if s.service == "worker"]
    assert [w.env["CUDA_VISIBLE_DEVICES"] for w in workers] == ["0,1", "2,3"]
    on_cpu = [s for s in plan("--device", "cpu", machine=machine) if s.service == "worker"]
    assert "CUDA_VISIBLE_DEVICES" not in on_cpu[0].env


def test_workers_share_a_gpu_only_where_their_memory_fits():
    assert gpu_slices(2, 1, ["5"], 0.45) == ["5", "5"]
    with pytest.raises(ConfigError, match=r"need 2 GPUs and there are 1: take fewer, or share one by"):
        gpu_slices(2, 1, ["5"], 0.9)
    with pytest.raises(ConfigError, match="need 4 GPUs and there are 2"):
        gpu_slices(2, 2, ["0", "1"], 0.4)


def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="no NVIDIA GPU"):
        plan("--device", "cuda")


def test_model_directory_must_hold_a_checkpoint(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such directory"):
        model_of(settings("--model_dir", str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        model_of(settings("--model_dir", str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    assert model_of(settings("--model_dir", str(tmp_path))) == (tmp_path.resolve(), tmp_path.name)
    assert model_of(settings("--model_dir", str(tmp_path), "--model_name", "mine"))[1] == "mine"
