"""Greedy tokens equal transformers' generate in float32, for every family, attention and RoPE variant."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from services.worker.runner.config import RunnerConfig
from services.worker.runner.start import start_runner
from tests.fakes.naive_engine import Job, NaiveEngine
from tests.fakes.tiny_model import make_model

VARIANTS = {
    "llama": ("llama", {}),
    "llama-untied-biased": (
        "llama",
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-no-gqa": ("llama", {"num_key_value_heads": 4}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1, "head_dim": 32}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-sliding": ("mistral", {"sliding_window": 11}),
    "qwen2": ("qwen2", {}),
    "qwen2-sliding-upper-layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3-biased-wide-heads": ("qwen3", {"attention_bias": True, "head_dim": 24}),
    "rope-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "rope-dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 48},
    ),
    "rope-yarn": (
        "qwen3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "rope-llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 500000.0,
            }
        },
    ),
}
PROMPT_LENGTHS = (1, 5, 16, 17, 33, 40)
NEW_TOKENS = 24


def ragged_prompts(seed: int = 3) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 512, length).tolist() for length in PROMPT_LENGTHS]


def transformers_greedy(model_dir: Path, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """One prompt at a time: padding would change what is compared."""
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.generation_config.eos_token_id = None
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        outputs.append(out[0, len(prompt) :].tolist())
    return outputs


def our_greedy(config: RunnerConfig, prompts: list[list[int]], chunk_size: int) -> list[list[int]]:
    runner = start_runner(config)
    try:
        # Jobs join one step after another, so that chunks and decodes share steps.
        jobs = [Job(prompt, NEW_TOKENS, join_at=2 * i) for i, prompt in enumerate(prompts)]
        return NaiveEngine(runner, chunk_size).generate(jobs)
    finally:
        runner.close()


def cpu_config(model_dir: Path, **options: object) -> RunnerConfig:
    base = {"device": "cpu", "max_slots": 8, "max_total_token_num": 2048, "cpu_threads": 1}
    return RunnerConfig(str(model_dir), **(base | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_equal_transformers(variant, tmp_path):
    family, overrides = VARIANTS[variant]
    model_dir = make_model(tmp_path, family, **overrides)
    prompts = ragged_prompts()
    expected = transformers_greedy(model_dir, prompts, NEW_TOKENS)
    assert our_greedy(cpu_config(model_dir), prompts, chunk_size=7) == expected
    assert our_greedy(cpu_config(model_dir), prompts, chunk_size=1 << 20) == expected


def test_dynamic_rope_equals_transformers_for_prompts_over_the_trained_length(tmp_path):
    overrides = VARIANTS["rope-dynamic"][1] | {"max_position_embeddings": 40}
    model_dir = make_model(tmp_path, "llama", **overrides)
    prompts = [ids * 8 for ids in ([1, 2, 3, 4, 5, 6, 7], [9, 3, 200, 41, 77, 8], [300, 100, 5])]
    # A model each: theirs keeps the base of the longest sequence that it has seen.
    expected = [transformers_greedy(model_dir, [prompt], NEW_TOKENS)[0] for prompt in prompts]
    assert our_greedy(cpu_config(model_dir), prompts, chunk_size=9) == expected


@pytest.mark.parametrize(
    "variant", ["llama-one-kv-head", "qwen2-sliding-upper-layers", "qwen3-biased-wide-heads"]
)
def test_two_ranks_give_the_tokens_of_one(variant, tmp_path):
    family, overrides = VARIANTS[variant]
    # A vocabulary that two ranks do not divide, so that the padding rows are there.
    model_dir = make_model(tmp_path, family, vocab_size=513, **overrides)
    prompts = ragged_prompts()
    expected = transformers_greedy(model_dir, prompts, NEW_TOKENS)
    assert our_greedy(cpu_config(model_dir, tp=2), prompts, chunk_size=7) == expected
