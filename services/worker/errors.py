"""The worker's own errors: what can go wrong with a model and its device."""

from __future__ import annotations


class WorkerError(Exception):
    """The root of the worker's errors. `code` is stable and goes to logs and metrics."""

    code = "worker_error"


class ModelLoadError(WorkerError):
    """The model cannot be served as configured. The worker prints the message and exits with code 2."""

    code = "model_load_failed"


class ConfigError(ModelLoadError):
    """config.json, or an option that depends on it, is missing a field or asks for what is not there."""

    code = "model_config_invalid"


class WeightsError(ModelLoadError):
    """The checkpoint is incomplete or does not fit the configuration."""

    code = "model_weights_invalid"


class DeviceMemoryError(ModelLoadError):
    """The device has no room for the weights, one step and a useful KV pool."""

    code = "device_memory_short"


class RunnerError(WorkerError):
    """A step failed or a rank died; the runner is of no further use and the worker must be restarted."""

    code = "runner_failed"


class RankKilled(RunnerError):
    """Somebody from outside killed a rank's process (SIGKILL): no request is the cause."""

    code = "rank_killed"
