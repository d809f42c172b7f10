"""What the router counts, under shoal_router_*."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.common.telemetry import Metrics

_WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RouterMetrics:
    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.waiting = Gauge(
            "shoal_router_line_requests",
            "Requests waiting; resumed ones are in mid-stream, keyed ones belong to a tenant",
            ["tenant_class"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "shoal_router_unanswered_requests",
            "Requests sent to a worker that has not answered",
            registry=registry,
        )
        self.workers = Gauge("shoal_router_live_workers", "Workers that take requests", registry=registry)
        self.blocks = Gauge("shoal_router_index_blocks", "Blocks in the prefix index", registry=registry)
        self.dispatches = Counter(
            "shoal_router_dispatches",
            "Requests sent to workers, by what became of it",
            ["result"],
            registry=registry,
        )
        self.refusals = Counter("shoal_router_refusals", "Requests refused", ["code"], registry=registry)
        self.bounced = Counter(
            "shoal_router_bounced", "Requests given back to gateways", ["reason"], registry=registry
        )
        self.wait_s = Histogram(
            "shoal_router_wait_seconds",
            "From arrival to being sent to a worker",
            registry=registry,
            buckets=_WAIT_BUCKETS,
        )
        self.prompt_tokens = Counter(
            "shoal_router_prompt_tokens", "Prompt tokens of dispatched requests", registry=registry
        )
        self.matched_tokens = Counter(
            "shoal_router_prefix_matched_tokens",
            "Of these, tokens that the index knew on the chosen worker",
            registry=registry,
        )
