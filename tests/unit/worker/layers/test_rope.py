"""Our tables against transformers' own rotary embedding, position by position."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from services.worker.layers.rope import prompt_rows, rope_table
from services.worker.models.config import Fields, rope_config

MAX_POSITION = 64
VARIANTS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 32,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
    },
    "yarn-attention-factor": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.25},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def both(parameters: dict) -> tuple:
    parameters = {"rope_theta": 10000.0} | parameters
    shape = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": MAX_POSITION}
    ours = rope_config(Fields(shape | {"rope_parameters": dict(parameters)}, "config.json"), head_dim=16)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**shape, rope_parameters=dict(parameters)))
    return ours, theirs


def their_rows(theirs: LlamaRotaryEmbedding, positions: torch.Tensor) -> torch.Tensor:
    cos, sin = theirs(torch.zeros(1, dtype=torch.float32), positions[None])
    return torch.cat((cos[0, :, :8], sin[0, :, :8]), dim=-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_equals_transformers_for_a_prompt_within_the_trained_length(variant):
    ours, theirs = both(VARIANTS[variant])
    positions = torch.arange(MAX_POSITION)
    assert torch.equal(rope_table(ours, MAX_POSITION, torch.device("cpu")), their_rows(theirs, positions))


def test_dynamic_table_equals_transformers_as_generation_grows_past_the_trained_length():
    ours, theirs = both(VARIANTS["dynamic"])
    table = rope_table(ours, 2 * MAX_POSITION, torch.device("cpu"))
    for position in range(MAX_POSITION - 2, 2 * MAX_POSITION):
        expected = their_rows(theirs, torch.tensor([position]))
        torch.testing.assert_close(table[position : position + 1], expected, rtol=0, atol=2e-5)


def test_dynamic_prompt_rows_equal_transformers_for_a_prompt_over_the_trained_length():
    ours, theirs = both(VARIANTS["dynamic"])
    positions = torch.arange(100)
    torch.testing.assert_close(
        prompt_rows(ours, positions, 100), their_rows(theirs, positions), rtol=0, atol=2e-5
    )


def test_old_style_rope_scaling_reads_as_the_new_rope_parameters():
    new = {"max_position_embeddings": 64, "rope_parameters": {"rope_theta": 5e5} | VARIANTS["llama3"]}
    old_scaling = {key: value for key, value in VARIANTS["llama3"].items() if key != "rope_type"}
    old = {"max_position_embeddings": 64, "rope_theta": 5e5, "rope_scaling": old_scaling | {"type": "llama3"}}
    assert rope_config(Fields(new, "a"), 16) == rope_config(Fields(old, "b"), 16)
