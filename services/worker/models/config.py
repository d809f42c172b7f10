"""A model's shape and rules, translated once from the Hugging Face files of a checkpoint.

Nothing else in the worker reads config.json: the spellings that differ by transformers version (`torch_dtype`
or `dtype`, `rope_scaling` or `rope_parameters`) end here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker.errors import ConfigError
from services.worker.layers.rope import ROPE_TYPES, RopeConfig

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    architecture: str
    hidden_size: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position: int
    """The longest sequence the model was made for, RoPE scaling included."""
    sliding_windows: tuple[int | None, ...]
    """Per layer: a query sees itself and the window - 1 tokens before it; None sees all before it."""
    dtype: str
    """The checkpoint's own dtype."""
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    eos_ids: tuple[int, ...] = ()

    @property
    def params_per_layer(self) -> int:
        """Weights in a layer's matrices."""
        attention = 2 * self.hidden_size * (self.num_q_heads + self.num_kv_heads) * self.head_dim
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def num_params(self) -> int:
        """Weights in all matrices; norms and biases are left out."""
        vocabulary = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * self.params_per_layer + vocabulary


class Fields:
    """A JSON object whose fields are read by type; every refusal names the file and the field."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self.raw = raw
        self.source = source

    def fail(self, field: str, why: str) -> ConfigError:
        return ConfigError(f"{self.source}: field {field!r} {why}")

    def integer(self, field: str, default: int | None = None) -> int:
        value = self._get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(field, f"must be a positive integer, not {value!r}")
        return value

    def number(self, field: str, default: float | None = None) -> float:
        value = self._get(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(field, f"must be a number, not {value!r}")
        return float(value)

    def optional_number(self, field: str) -> float | None:
        return None if self.raw.get(field) is None else self.number(field)

    def flag(self, field: str, default: bool) -> bool:
        value = self._get(field, default)
        if not isinstance(value, bool):
            raise self.fail(field, f"must be true or false, not {value!r}")
        return value

    def ids(self, field: str) -> tuple[int, ...]:
        """One token id, a list of them, or none."""
        value = self.raw.get(field)
        ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise self.fail(field, f"must be a token id or a list of token ids, not {value!r}")
        return ids

    def _get(self, field: str, default: Any) -> Any:
        value = self.raw.get(field)
        if value is not None:
            return value
        if default is None:
            raise self.fail(field, "is missing")
        return default


def read_json(path: Path) -> Fields:
    """Raises ConfigError if the file is absent or not a JSON object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} holds no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return Fields(raw, str(path))


def architecture_of(fields: Fields) -> str:
    names = fields.raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise fields.fail("architectures", "is missing: it names the model class")
    return names[0]


def dense_config(fields: Fields, *, default_kv_heads: int | None = None, **family: Any) -> ModelConfig:
    """The fields that all dense decoder families share; `family` adds or replaces what a family does its way."""
    refuse_unsupported(fields)
    num_q_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    num_layers = fields.integer("num_hidden_layers")
    num_kv_heads = fields.integer("num_key_value_heads", default_kv_heads or num_q_heads)
    if num_q_heads % num_kv_heads:
        raise fields.fail("num_key_value_heads", f"must divide num_attention_heads ({num_q_heads})")
    head_dim = family.pop("head_dim", None) or fields.integer("head_dim", hidden_size // num_q_heads)
    rope = rope_config(fields, head_dim)
    values: dict[str, Any] = {
        "architecture": architecture_of(fields),
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_q_heads": num_q_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": fields.integer("intermediate_size"),
        "vocab_size": fields.integer("vocab_size"),
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
        "rope": rope,
        "max_position": longest_context(rope),
        "sliding_windows": (None,) * num_layers,
        "dtype": config_dtype(fields),
        "tie_embeddings": fields.flag("tie_word_embeddings", False),
        "eos_ids": eos_ids(fields),
    }
    return ModelConfig(**(values | family))


def refuse_unsupported(fields: Fields) -> None:
    """What would load and then answer wrongly is refused by name."""
    if fields.raw.get("quantization_config") is not None:
        raise fields.fail("quantization_config", "is set: quantized checkpoints are not supported")
    act = fields.raw.get("hidden_act", "silu")
    if act != "silu":
        raise fields.fail("hidden_act", f"is {act!r}: only 'silu' is supported")


def config_dtype(fields: Fields) -> str:
    value = fields.raw.get("dtype") or fields.raw.get("torch_dtype") or "float32"
    if value not in DTYPES:
        raise fields.fail("dtype", f"is {value!r}: must be one of {', '.join(DTYPES)}")
    return str(value)


def eos_ids(fields: Fields) -> tuple[int, ...]:
    """generation_config.json decides where it names any, as in transformers' generate; else config.json."""
    path = Path(fields.source).with_name("generation_config.json")
    generation = read_json(path).ids("eos_token_id") if path.exists() else ()
    return generation or fields.ids("eos_token_id")


def rope_config(fields: Fields, head_dim: int) -> RopeConfig:
    """From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before it)."""
    field = "rope_parameters" if fields.raw.get("rope_parameters") else "rope_scaling"
    raw = fields.raw.get(field) or {}
    if not isinstance(raw, dict):
        raise fields.fail(field, f"must be an object, not {raw!r}")
    scaling = Fields(raw, f"{fields.source}: {field}")
    rope_type = raw.get("rope_type") or raw.get("type") or "default"
    if rope_type not in ROPE_TYPES:
        raise scaling.fail("rope_type", f"is {rope_type!r}: must be one of {', '.join(ROPE_TYPES)}")
    max_position = fields.integer("max_position_embeddings", 2048)
    if scaling.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0)) != 1.0:
        raise scaling.fail("partial_rotary_factor", "is set: partly rotated heads are not supported")
    # A top-level original_max_position_embeddings wins over the one among the parameters, as in transformers.
    original = fields.integer(
        "original_max_position_embeddings", scaling.integer("original_max_position_embeddings", max_position)
    )
    return RopeConfig(
        type=rope_type,
        theta=scaling.number("rope_theta", fields.number("rope_theta", 10000.0)),
        dim=head_dim,
        max_position=max_position,
        factor=_rope_factor(scaling, rope_type, max_position / original),
        original_max_position=original,
        low_freq_factor=scaling.number("low_freq_factor", None if rope_type == "llama3" else 1.0),
        high_freq_factor=scaling.number("high_freq_factor", None if rope_type == "llama3" else 4.0),
        beta_fast=scaling.optional_number("beta_fast") or 32.0,
        beta_slow=scaling.optional_number("beta_slow") or 1.0,
        attention_factor=scaling.optional_number("attention_factor"),
        mscale=scaling.optional_number("mscale"),
        mscale_all_dim=scaling.optional_number("mscale_all_dim"),
        truncate=scaling.flag("truncate", True),
    )


def _rope_factor(scaling: Fields, rope_type: str, stretched: float) -> float:
    if rope_type == "default":
        return 1.0
    return scaling.number("factor", stretched if rope_type == "yarn" else None)


def longest_context(rope: RopeConfig) -> int:
    """Types whose max_position_embeddings may still be the length before stretching count the factor."""
    if rope.type in ("linear", "dynamic"):
        return int(rope.max_position * rope.factor)
    if rope.type == "yarn":
        return max(rope.max_position, int(rope.original_max_position * rope.factor))
    return rope.max_position


def layered_windows(fields: Fields) -> tuple[int | None, ...]:
    """Sliding windows as Qwen configures them: off unless `use_sliding_window`, then by layer."""
    num_layers = fields.integer("num_hidden_layers")
    if not fields.flag("use_sliding_window", False) or fields.raw.get("sliding_window") is None:
        return (None,) * num_layers
    window = fields.integer("sliding_window")
    types = fields.raw.get("layer_types")
    if types is None:
        first = int(fields.number("max_window_layers", 28))
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise fields.fail("layer_types", "must name full_attention or sliding_attention once per layer")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
