"""The worker's figures for Prometheus. Some also carry the names that dashboards for vLLM read."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.worker.engine.messages import EngineInfo, StepOutput

_STEP_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class WorkerMetrics:
    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"shoal_worker_{name}", text, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"shoal_worker_{name}", text, registry=registry)

        def vllm(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, ["model_name"], registry=registry).labels(model)

        self._running = gauge("running_sequences", "Sequences in the batch")
        self._waiting = gauge("waiting_sequences", "Sequences accepted and not in the batch")
        self._free = gauge("free_blocks", "KV blocks free or evictable")
        self._used = gauge("used_blocks", "KV blocks that sequences hold")
        self._vllm_running = vllm("num_requests_running", "Sequences in the batch")
        self._vllm_waiting = vllm("num_requests_waiting", "Sequences accepted and not in the batch")
        self._vllm_usage = [
            vllm(name, "Share of the KV blocks that sequences hold")
            for name in ("gpu_cache_usage_perc", "kv_cache_usage_perc")
        ]
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens computed")
        self._output_tokens = counter("output_tokens", "Tokens drawn")
        self._hit_tokens = counter("prefix_hit_tokens", "Prompt tokens found in the prefix cache")
        self._preemptions = counter(
            "preemptions", "Sequences that gave up their blocks and were computed again"
        )
        self._steps = Histogram(
            "shoal_worker_step_seconds",
            "Time of a step, by whether it held prompt tokens",
            ["kind"],
            registry=registry,
            buckets=_STEP_BUCKETS,
        )
        self.requests = Counter(
            "shoal_worker_requests", "Requests offered, by outcome", ["outcome"], registry=registry
        )
        self.ended = Counter(
            "shoal_worker_streams_ended", "Streams, by how they ended", ["how"], registry=registry
        )
        self.replays = counter("replays", "Streams sent again")
        self.frames = counter("token_frames", "Frames sent to detokenizers")

    def on_output(self, output: StepOutput, info: EngineInfo) -> None:
        used = info.num_blocks - output.free_blocks
        self._running.set(output.running)
        self._waiting.set(output.waiting)
        self._free.set(output.free_blocks)
        self._used.set(used)
        self._vllm_running.set(output.running)
        self._vllm_waiting.set(output.waiting)
        for usage in self._vllm_usage:
            usage.set(used / max(1, info.num_blocks))
        self._prompt_tokens.inc(output.prefill_tokens)
        self._output_tokens.inc(len(output.ids))
        self._hit_tokens.inc(sum(output.admitted.values()))
        self._preemptions.inc(len(output.preempted))
        if output.step_s:
            self._steps.labels("prefill" if output.prefill_tokens else "decode").observe(output.step_s)
