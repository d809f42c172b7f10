"""Qwen2 and Qwen2.5: Llama with biases on q, k and v, and sliding windows on the upper layers if asked for."""

from __future__ import annotations

from services.worker.models.config import Fields, ModelConfig, dense_config, layered_windows
from services.worker.models.llama import LlamaForCausalLM


class Qwen2ForCausalLM(LlamaForCausalLM):
    @staticmethod
    def translate(fields: Fields) -> ModelConfig:
        return dense_config(fields, qkv_bias=True, sliding_windows=layered_windows(fields))
