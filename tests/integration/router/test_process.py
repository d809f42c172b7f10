import json

import pytest

from tests.fakes.processes import modules_of, running_service


@pytest.mark.parametrize("service", ["router"])
def test_the_service_imports_no_torch(service):
    loaded = modules_of(f"import services.{service}.__main__")
    assert f"services.{service}.app" in loaded
    assert not {"torch", "transformers", "numpy"} & loaded


async def test_the_process_serves_health_and_ends_with_0_when_told(nats_server):
    with running_service("router", [*nats_server.flags, "--log_format", "json"]) as process:
        await process.until_ready()
        assert process.get("/health")[0] == 200
        assert "shoal_router_live_workers 0.0" in process.get("/metrics")[1]
        config = json.loads(process.get("/config")[1])
        assert nats_server.password not in json.dumps(config)
        assert process.terminate() == 0
        lines = [json.loads(line) for line in process.popen.stderr.read().splitlines()]
    assert [line["event"] for line in lines][-1] == "stopped"


def test_a_wrong_option_is_one_line_and_exit_code_2():
    with running_service("router", ["--schedule_policy", "random"]) as process:
        assert process.popen.wait(20) == 2
        assert process.popen.stderr.read().decode().count("\n") == 1


def test_without_nats_it_ends_with_one_line_and_exit_code_2():
    with running_service("router", ["--nats_url", "nats://127.0.0.1:1"]) as process:
        assert process.popen.wait(30) == 2
        assert b"NATS at nats://127.0.0.1:1 cannot be reached" in process.popen.stderr.read()
