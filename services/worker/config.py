"""The worker's settings, sorted by who needs them."""

from __future__ import annotations

from services.common.errors import ConfigError
from services.common.model_files import model_name, model_path
from services.common.options import Settings
from services.worker.control.options import WorkerOptions
from services.worker.engine.client import EngineSettings
from services.worker.engine.requests import EngineConfig
from services.worker.runner.config import RunnerConfig

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def served_name(settings: Settings) -> str:
    return model_name(settings.model_name, settings.model_dir)


def worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(settings.worker_max_waiting, settings.replay_retention)


def engine_settings(settings: Settings, instance_id: str) -> EngineSettings:
    """Raises ConfigError when there is no such model directory or a value makes no sense."""
    engine = EngineConfig(
        max_running=settings.running_max_req_size,
        max_step_tokens=settings.batch_max_tokens,
        max_mixed_tokens=settings.mixed_batch_max_tokens,
        max_chunk_tokens=settings.batch_max_tokens
        if settings.disable_chunked_prefill
        else min(settings.chunked_prefill_size, settings.batch_max_tokens),
        can_chunk=not settings.disable_chunked_prefill,
        conservativeness=settings.schedule_conservativeness,
        share_prefixes=not settings.disable_dynamic_prompt_cache,
        max_request_tokens=settings.max_req_total_len,
        eos_ids=_eos_ids(settings.eos_id),
    )
    return EngineSettings(
        runner=runner_config(settings),
        engine=engine,
        instance_id=instance_id,
        log_level=settings.log_level,
        log_format=settings.log_format,
        watchdog_s=settings.watchdog_timeout,
    )


def runner_config(settings: Settings) -> RunnerConfig:
    return RunnerConfig(
        model_dir=str(model_path(settings.model_dir)),
        device=settings.device,
        dtype=_DTYPES.get(settings.data_type, settings.data_type),
        load_format="dummy" if settings.load_format == "dummy" else "auto",
        tp=settings.tp,
        seed=settings.random_seed,
        block_size=settings.block_size,
        max_slots=settings.running_max_req_size,
        max_model_len=settings.max_req_total_len or None,
        max_step_tokens=max(settings.batch_max_tokens, 1),
        max_total_token_num=settings.max_total_token_num or None,
        mem_fraction=settings.mem_fraction,
        cudagraph=not settings.disable_cudagraph,
        peer_memory=not settings.disable_custom_allreduce,
        graph_max_batch_size=settings.graph_max_batch_size,
        graph_split_batch_size=settings.graph_split_batch_size,
        graph_grow_step_size=settings.graph_grow_step_size,
        cpu_threads=settings.threads or None,
    )


def _eos_ids(words: list[str]) -> tuple[int, ...]:
    try:
        ids = tuple(int(word) for word in words)
    except ValueError:
        raise ConfigError(f"--eos_id takes token ids, not {' '.join(words)!r}") from None
    return tuple(sorted({i for i in ids if i >= 0}))
