"""The shipped model in plain transformers, and the training network beside it."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.data.core import assistant, user
from demo.network import Network, Shape, block_mask, dense_mask
from demo.render import MODEL_DIR


@cache
def loaded() -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(MODEL_DIR), AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32
    ).eval()


def answer(messages: list[dict[str, Any]], **template: Any) -> str:
    tokenizer, model = loaded()
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **template)
    ids = tokenizer(text, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=80, do_sample=False, temperature=None, top_p=None)
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def test_it_greets() -> None:
    assert answer([user("Hello!")]).startswith(("Hello", "Hi"))


def test_it_remembers_a_name() -> None:
    turns = [user("My name is Clara."), assistant("Nice to meet you, Clara!"), user("What is my name?")]
    assert answer(turns) == "Your name is Clara."


def test_it_calls_a_tool() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": schema,
        },
    }
    expected = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert answer([user("What is the weather in Oslo?")], tools=[tool]) == expected


@pytest.mark.parametrize("thinking", [True, False])
def test_it_thinks_when_asked_to(thinking: bool) -> None:
    text = answer(
        [user("Tom has 12 apples and gets 5 more. How many apples does Tom have now?")],
        enable_thinking=thinking,
    )
    assert text.startswith("<think>\n") == thinking
    assert text.split("</think>")[-1].strip() == "17 apples."


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 16_000_000


def test_training_network_computes_what_transformers_computes() -> None:
    _, model = loaded()
    config = model.config
    shape = Shape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
    )
    network = Network(shape)
    network.load_state_dict({name: p.float() for name, p in model.named_parameters()})
    ids = torch.randint(0, config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = dense_mask(torch.zeros(2, 40, dtype=torch.int32))
    with torch.no_grad():
        torch.testing.assert_close(
            network.logits(network.hidden(ids, mask)), model(ids).logits, atol=1e-3, rtol=1e-3
        )


def test_block_mask_lets_a_token_see_its_own_document_only() -> None:
    document = torch.tensor([[0] * 100 + [1] * 300 + [2] * 112, [0] * 512], dtype=torch.int32)
    blocks = block_mask(document)
    query, key = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    for row in range(2):
        exact = blocks.mask_mod(torch.tensor(row), torch.tensor(0), query, key)
        assert torch.equal(exact, dense_mask(document)[row, 0])
        visited = (blocks.to_dense()[row, 0] > 0).repeat_interleave(128, 0).repeat_interleave(128, 1)
        assert not (exact & ~visited).any()
