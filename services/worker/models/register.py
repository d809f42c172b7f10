"""The table of architectures. A family is one file and its line here; only the one served is imported."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from services.worker.errors import ConfigError
from services.worker.models.config import ModelConfig, architecture_of, read_json

if TYPE_CHECKING:
    from services.worker.models.llama import LlamaForCausalLM

# The name under "architectures" in config.json -> "module:class" below services.worker.models.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama:LlamaForCausalLM",
    "MistralForCausalLM": "mistral:MistralForCausalLM",
    "Qwen2ForCausalLM": "qwen2:Qwen2ForCausalLM",
    "Qwen3ForCausalLM": "qwen3:Qwen3ForCausalLM",
}


def model_class(architecture: str) -> type[LlamaForCausalLM]:
    """Raises ConfigError if the architecture is not in the table."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigError(f"architecture {architecture!r} is not supported; supported are {known}")
    module, name = ARCHITECTURES[architecture].split(":")
    return getattr(import_module(f"services.worker.models.{module}"), name)


def load_config(model_dir: Path) -> ModelConfig:
    """Reads config.json and generation_config.json. Raises ConfigError naming the field at fault."""
    if not model_dir.is_dir():
        raise ConfigError(f"model directory {str(model_dir)!r} does not exist")
    fields = read_json(model_dir / "config.json")
    return model_class(architecture_of(fields)).translate(fields)
