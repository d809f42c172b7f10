"""What cannot be served is refused with the file and the field; what can is read alike from old and new files."""

import json
from pathlib import Path

import pytest

from services.worker.errors import ConfigError
from services.worker.models.register import load_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def load(folder: Path, generation: dict | None = None, **fields: object):
    merged = {key: value for key, value in (LLAMA | fields).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(merged))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return load_config(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architecture 'MambaForCausalLM' is not supported"),
        ({"architectures": "absent"}, "field 'architectures' is missing"),
        ({"hidden_size": "absent"}, "field 'hidden_size' is missing"),
        ({"hidden_size": "64"}, "field 'hidden_size' must be a positive integer, not '64'"),
        ({"num_hidden_layers": 0}, "field 'num_hidden_layers' must be a positive integer, not 0"),
        ({"num_key_value_heads": 3}, "field 'num_key_value_heads' must divide num_attention_heads"),
        ({"rms_norm_eps": True}, "field 'rms_norm_eps' must be a number"),
        ({"tie_word_embeddings": "no"}, "field 'tie_word_embeddings' must be true or false"),
        ({"hidden_act": "gelu"}, "field 'hidden_act' is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantized checkpoints are not supported"),
        ({"dtype": "float8"}, "field 'dtype' is 'float8'"),
        ({"eos_token_id": [-1]}, "field 'eos_token_id' must be a token id"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling: field 'rope_type' is 'longrope'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters: field 'factor' is missing"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "field 'low_freq_factor' is missing"),
        ({"partial_rotary_factor": 0.5}, "partly rotated heads are not supported"),
        ({"rope_scaling": [1]}, "field 'rope_scaling' must be an object"),
    ],
)
def test_refusals_name_the_field(tmp_path, fields, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_directory_file_or_object_is_told(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a JSON object"):
        load_config(tmp_path)


def test_generation_config_decides_which_ids_end_a_sequence(tmp_path):
    assert load(tmp_path).eos_ids == (2,)
    assert load(tmp_path, {"eos_token_id": [7, 8]}).eos_ids == (7, 8)
    assert load(tmp_path, {"pad_token_id": 0}).eos_ids == (2,)


def test_defaults_are_transformers_own(tmp_path):
    config = load(tmp_path)
    assert (config.num_kv_heads, config.head_dim, config.dtype) == (4, 16, "bfloat16")
    assert (config.tie_embeddings, config.qkv_bias, config.o_bias) == (False, False, False)
    assert (config.rope.theta, config.max_position) == (10000.0, 256)


def test_stretched_rope_lengthens_the_context(tmp_path):
    assert load(tmp_path, rope_scaling={"type": "dynamic", "factor": 4}).max_position == 1024
    yarn = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 256}
    assert load(tmp_path, rope_scaling=yarn).max_position == 1024
    assert load(tmp_path, rope_scaling=yarn, max_position_embeddings=4096).max_position == 4096


def test_qwen_windows_start_at_their_layer_and_only_if_asked_for(tmp_path):
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "max_window_layers": 1}
    assert load(tmp_path, **qwen).sliding_windows == (None, None, None)
    assert load(tmp_path, use_sliding_window=True, **qwen).sliding_windows == (None, 32, 32)
    types = ["sliding_attention", "full_attention", "full_attention"]
    named = load(tmp_path, use_sliding_window=True, layer_types=types, **qwen)
    assert named.sliding_windows == (32, None, None)
