from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.fakes.tiny_model import IM_END, MARKUP, VOCAB_SIZE, make_model, make_tokenizer


def test_tokenizer_round_trips_any_text_and_knows_its_markup(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path))
    text = "Hello, 日本語 😀! žluťoučký\n\tdef f(): return 1"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) <= VOCAB_SIZE
    for word in MARKUP:
        assert len(tokenizer.encode(word)) == 1
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == IM_END


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_checkpoint_loads_and_generates_varied_tokens(tmp_path: Path, architecture: str) -> None:
    directory = make_model(tmp_path, architecture, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    inputs = tokenizer("Hello", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(set(new)) > 8
