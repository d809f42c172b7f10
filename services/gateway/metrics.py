"""The gateway's Prometheus metrics: ours, and those that vLLM's dashboards read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

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


class SharedHistogram(Collector):
    """One histogram shown under several names. Observed once per token, so it is a bisection and two additions:
    the library's own, thrice, was a tenth of the work of a streamed token. Used by one thread.
    """

    def __init__(self, names: Sequence[str], text: str, model: str, buckets: Sequence[float]) -> None:
        self._names, self._text, self._model, self._buckets = names, text, model, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        total, cumulative = 0, []
        for bound, count in zip((*self._buckets, float("inf")), self._counts, strict=True):
            total += count
            cumulative.append((floatToGoString(bound), float(total)))
        for name in self._names:
            family = HistogramMetricFamily(name, self._text, labels=["model_name"])
            family.add_metric([self._model], cumulative, self._sum)
            yield family


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry)

        def seconds(text: str, buckets: Sequence[float], *names: str) -> SharedHistogram:
            histogram = SharedHistogram(names, text, model, buckets)
            registry.register(histogram)
            return histogram

        self._model = model
        self.requests = counter("shoal_gateway_requests", "HTTP requests", "route", "status")
        self.in_flight = gauge("shoal_gateway_requests_in_flight", "HTTP requests under way")
        self.cancelled = counter("shoal_gateway_requests_cancelled", "Generations whose client left")
        self.resubmissions = gauge("shoal_gateway_resubmissions", "Attempts after the first")
        self.replays = gauge("shoal_gateway_replays", "Streams asked for again")
        self.cancels = gauge("shoal_gateway_cancels_sent", "Cancel messages sent")
        self.stale_rows = gauge("shoal_gateway_stale_rows", "Rows dropped: old, doubled or beyond a gap")
        self.ready = gauge("shoal_gateway_ready", "1 while the whole path works")
        self.ttft = seconds(
            "From request to first token, streamed requests",
            _SECONDS,
            "shoal_gateway_time_to_first_token_seconds",
            "vllm:time_to_first_token_seconds",
        )
        self.itl = seconds(
            "Between tokens of a choice, streamed requests",
            _TOKEN_SECONDS,
            "shoal_gateway_inter_token_seconds",
            "vllm:inter_token_latency_seconds",
            "vllm:time_per_output_token_seconds",
        )
        self.e2e = seconds(
            "From request to last token",
            _SECONDS,
            "shoal_gateway_request_seconds",
            "vllm:e2e_request_latency_seconds",
        )
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens", "model_name").labels(model)
        self.generation_tokens = counter("vllm:generation_tokens", "Output tokens", "model_name").labels(
            model
        )
        self._success = counter(
            "vllm:request_success", "Choices that ended well", "model_name", "finished_reason"
        )
        self.running = Gauge(
            "vllm:num_requests_running", "Requests under way", ["model_name"], registry=registry
        ).labels(model)

    def on_refused(self, status: int) -> None:
        """Of a request that was no request yet: no path is known."""
        self.requests.labels("other", str(status)).inc()

    def on_finish(self, reason: str) -> None:
        self._success.labels(self._model, reason).inc()
