"""A checkpoint small enough to make in a test: byte-level BPE tokenizer, ChatML template, random weights.

``make_tokenizer`` writes the files that the gateway and the detokenizer read and needs no torch;
``make_model`` adds config.json and safetensors of a Hugging Face architecture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>")
VOCAB_SIZE = 512  # rows of the embedding; the tokenizer has at most as many ids
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,  # wide enough that greedy output does not settle on one token
}

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# What the merges are learned from. The other scripts make characters of several bytes common.
_CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello, world! How are you today?",
    "A request has one or more choices; every token of a choice has an index, and text follows the ids.",
    "def add(left: int, right: int) -> int:\n    return left + right\n",
    'system user assistant tool {"name": "get_weather", "arguments": {"city": "Paris"}}',
    "Grüße aus Köln, čeština, Ελληνικά, русский, 日本語の文章, 한국어, 😀😃👍🏽",
]


def make_tokenizer(directory: Path) -> Path:
    """Writes tokenizer.json, tokenizer_config.json (template included) and generation_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    special = (END_OF_TEXT, IM_START, IM_END, *MARKUP)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = {text: tokenizer.token_to_id(text) for text in special}
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": CHAT_TEMPLATE,
            "bos_token": None,
            "eos_token": IM_END,
            "pad_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "model_max_length": SHAPE["max_position_embeddings"],
        },
    )
    _write(
        directory / "generation_config.json",
        {
            "eos_token_id": [ids[IM_END], ids[END_OF_TEXT]],
            "pad_token_id": ids[END_OF_TEXT],
        },
    )
    return directory


def make_model(directory: Path, architecture: str = "qwen3", *, seed: int = 0, **overrides: Any) -> Path:
    """A whole checkpoint with float32 weights drawn from ``seed``.

    ``architecture`` is a Hugging Face model_type ("llama", "mistral", "qwen2", "qwen3"); ``overrides`` are
    fields of its config, over SHAPE.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tokenizer(directory)
    generation = json.loads((directory / "generation_config.json").read_text())
    shape = {**SHAPE, **generation, **overrides}
    shape.setdefault("head_dim", shape["hidden_size"] // shape["num_attention_heads"])
    config = AutoConfig.for_model(architecture, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = generation["eos_token_id"]
    model.generation_config.pad_token_id = generation["pad_token_id"]
    model.save_pretrained(directory)
    return directory


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
