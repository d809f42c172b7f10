"""The served model as the gateway knows it: its name, its limits, its tokenizer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.common.errors import ConfigError
from services.gateway.text.tokenizer import TextTokenizer, load_text_tokenizer, read_json


@dataclass(slots=True)
class ServedModel:
    """``max_len``: the longest prompt and output together, in tokens, by the model's own config or an option."""

    name: str
    path: Path
    max_len: int
    vocab_size: int
    tokenizer: TextTokenizer
    created: int = field(default_factory=lambda: int(time.time()))


def load_model(
    path: Path, name: str, *, max_len: int = 0, tokenizer_mode: str = "auto", chat_template: str = ""
) -> ServedModel:
    """Reads what the gateway needs of a checkpoint. Raises ConfigError in one line."""
    tokenizer = load_text_tokenizer(path, mode=tokenizer_mode, chat_template=chat_template)
    config = read_json(path / "config.json")
    config = config.get("text_config") or config
    limit = model_limit(config)
    if max_len and limit and max_len > limit:
        raise ConfigError(f"--max_req_total_len {max_len} is over the model's limit of {limit} tokens")
    vocab_size = config.get("vocab_size")
    return ServedModel(
        name,
        path,
        max_len or limit or 2**20,
        vocab_size if isinstance(vocab_size, int) else tokenizer.vocab_size,
        tokenizer,
    )


def model_limit(config: dict[str, Any]) -> int:
    """Positions that a model supports: max_position_embeddings, extended by its RoPE scaling; 0: unknown."""
    limit = config.get("max_position_embeddings") or config.get("n_positions") or 0
    if not isinstance(limit, int):
        return 0
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, dict):
        return limit
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    factor = scaling.get("factor") or 1.0
    if kind in ("linear", "dynamic"):
        return int(limit * factor)
    if kind == "yarn":
        original = config.get("original_max_position_embeddings") or scaling.get(
            "original_max_position_embeddings", limit
        )
        return max(limit, int(original * factor))
    return limit
