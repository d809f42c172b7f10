"""Reads the services' own figures."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.probe import get
from tests.fakes.stack import Stack


def scrape(address: str) -> dict[str, float]:
    """Samples of one service by name, summed over their labels."""
    found: dict[str, float] = {}
    status, text = get(address + "/metrics", timeout_s=10.0)
    assert status == 200, f"{address} gives no metrics: {status}"
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def of_workers(stack: Stack) -> dict[str, dict[str, float]]:
    """The figures of every worker, by its id."""
    return {i: scrape(row["address"]) for i, row in stack.services().items() if row["service"] == "worker"}


def total(stack: Stack, name: str) -> float:
    """One figure, summed over the workers."""
    return sum(figures[name] for figures in of_workers(stack).values())
