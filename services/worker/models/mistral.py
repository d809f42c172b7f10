"""Mistral: Llama without biases, with one sliding window for all layers where the config sets it."""

from __future__ import annotations

from services.worker.models.config import Fields, ModelConfig, dense_config
from services.worker.models.llama import LlamaForCausalLM


class MistralForCausalLM(LlamaForCausalLM):
    @staticmethod
    def translate(fields: Fields) -> ModelConfig:
        window = None if fields.raw.get("sliding_window") is None else fields.integer("sliding_window")
        return dense_config(
            fields,
            default_kv_heads=8,
            sliding_windows=(window,) * fields.integer("num_hidden_layers"),
        )
