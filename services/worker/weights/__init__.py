"""Checkpoints to the tensors that a rank keeps."""

from __future__ import annotations

from pathlib import Path

from services.worker.errors import ConfigError
from services.worker.weights.checkpoint import Checkpoint
from services.worker.weights.dummy import DummyWeights
from services.worker.weights.source import WeightSource

LOAD_FORMATS = ("auto", "dummy")


def open_weights(model_dir: Path, load_format: str, seed: int = 0) -> WeightSource:
    """`load_format`: "auto" reads the checkpoint in model_dir, "dummy" makes weights up from the seed."""
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, not {load_format!r}")
    return DummyWeights(seed) if load_format == "dummy" else Checkpoint(model_dir)


__all__ = ["LOAD_FORMATS", "Checkpoint", "DummyWeights", "WeightSource", "open_weights"]
