"""What docker-compose.yml promises of every container; that they then work is tried by ``./shoal test --compose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[3]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPO / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_and_nothing_to_write_to(name: str) -> None:
    service = SERVICES[name]
    user = str(service["user"]).split(":")
    assert all(part.isdecimal() and int(part) > 0 for part in user)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_gateway_has_a_port_outside_and_that_on_loopback_unless_told(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) == (name == "gateway")
    assert all(port.startswith("${GATEWAY_ADDRESS:-127.0.0.1}:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_given_longer_to_end_than_its_service_takes(name: str) -> None:
    if "SHOAL_NATS_URL" in SERVICES[name].get("environment", {}):
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 30
