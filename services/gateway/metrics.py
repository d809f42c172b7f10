"""The gateway's Prometheus metrics: ours, and those that vLLM's dashboards read."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.1,
    0.15,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 1, 2.5)


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, ["model_name"], buckets=buckets, registry=registry)

        self.requests = counter("shoal_gateway_requests", "HTTP requests", "route", "status")
        self.in_flight = Gauge(
            "shoal_gateway_requests_in_flight", "HTTP requests under way", registry=registry
        )
        self.cancelled = counter("shoal_gateway_requests_cancelled", "Generations whose client left")
        self.resubmissions = Gauge(
            "shoal_gateway_resubmissions", "Attempts after the first", registry=registry
        )
        self.replays = Gauge("shoal_gateway_replays", "Streams asked for again", registry=registry)
        self.cancels = Gauge("shoal_gateway_cancels_sent", "Cancel messages sent", registry=registry)
        self.stale_rows = Gauge(
            "shoal_gateway_stale_rows", "Rows dropped: old, doubled or beyond a gap", registry=registry
        )
        self.ready = Gauge("shoal_gateway_ready", "1 while the whole path works", registry=registry)
        self.ttft = seconds(
            "shoal_gateway_time_to_first_token_seconds", "From request to first token"
        ).labels(model)
        self.itl = seconds(
            "shoal_gateway_inter_token_seconds", "Between tokens of a choice", _TOKEN_SECONDS
        ).labels(model)
        self.e2e = seconds("shoal_gateway_request_seconds", "From request to last token").labels(model)
        # as vLLM names them
        self.vllm_ttft = seconds("vllm:time_to_first_token_seconds", "From request to first token").labels(
            model
        )
        self.vllm_tpot = seconds(
            "vllm:time_per_output_token_seconds", "Between tokens", _TOKEN_SECONDS
        ).labels(model)
        self.vllm_itl = seconds("vllm:inter_token_latency_seconds", "Between tokens", _TOKEN_SECONDS).labels(
            model
        )
        self.vllm_e2e = seconds("vllm:e2e_request_latency_seconds", "From request to last token").labels(
            model
        )
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens", "model_name").labels(model)
        self.generation_tokens = counter("vllm:generation_tokens", "Output tokens", "model_name").labels(
            model
        )
        self.success = counter(
            "vllm:request_success", "Choices that ended well", "model_name", "finished_reason"
        )
        self.running = Gauge(
            "vllm:num_requests_running", "Requests under way", ["model_name"], registry=registry
        ).labels(model)
        self._model = model

    def on_first_token(self, seconds: float) -> None:
        self.ttft.observe(seconds)
        self.vllm_ttft.observe(seconds)

    def on_tokens(self, count: int, seconds_each: float) -> None:
        """``count`` tokens came together; the time since the last is spread over them. One sample stands for all."""
        self.itl.observe(seconds_each)
        self.vllm_tpot.observe(seconds_each)
        self.vllm_itl.observe(seconds_each)

    def on_end(self, seconds: float) -> None:
        self.e2e.observe(seconds)
        self.vllm_e2e.observe(seconds)

    def on_finish(self, reason: str) -> None:
        self.success.labels(self._model, reason).inc()
