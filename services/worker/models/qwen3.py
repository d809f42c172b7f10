"""Qwen3 (dense): Llama with RMS norm on each head of q and k before RoPE, and a head size of its own."""

from __future__ import annotations

from services.worker.models.config import Fields, ModelConfig, dense_config, layered_windows
from services.worker.models.llama import LlamaForCausalLM


class Qwen3ForCausalLM(LlamaForCausalLM):
    @staticmethod
    def translate(fields: Fields) -> ModelConfig:
        bias = fields.flag("attention_bias", False)
        return dense_config(
            fields,
            head_dim=fields.integer("head_dim", 128),
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=True,
            sliding_windows=layered_windows(fields),
        )
