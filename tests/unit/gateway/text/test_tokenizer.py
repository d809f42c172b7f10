from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from services.common.errors import ConfigError, InvalidValue
from services.gateway.text.tokenizer import load_text_tokenizer
from tests.fakes.tiny_model import make_tokenizer

TEXTS = ["Hello, world!", " leading", "日本 😀 café\n\n\tx", "<|im_start|>user", "<think>a</think>"]


async def test_ids_are_those_of_transformers_and_bytes_add_up_to_the_text(tmp_path: Path) -> None:
    reference = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path))
    tokenizer = load_text_tokenizer(tmp_path)
    for text in TEXTS:
        ids = await tokenizer.encode(text, add_special_tokens=True)
        assert ids == reference.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
        assert tokenizer.decode(ids) == text
    long = "fox " * 5000
    assert await tokenizer.encode(long, add_special_tokens=True) == reference.encode(long)


async def test_special_tokens_are_added_as_the_post_processor_says(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bos = raw.token_to_id("<|endoftext|>")
    raw.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_text_tokenizer(tmp_path)
    plain = await tokenizer.encode("Hi", add_special_tokens=False)
    assert await tokenizer.encode("Hi", add_special_tokens=True) == [bos, *plain]


def test_bytes_of_sentencepiece_tokens(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<0x0A>": 1, "<0xE2>": 2, "\u2581the": 3, "re": 4}
    raw = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_text_tokenizer(tmp_path)
    assert [tokenizer.token_bytes(i) for i in (1, 2, 3, 4, 99)] == [b"\n", b"\xe2", b" the", b"re", b""]


async def test_lone_surrogates_are_refused(tmp_path: Path) -> None:
    tokenizer = load_text_tokenizer(make_tokenizer(tmp_path))
    with pytest.raises(InvalidValue):
        await tokenizer.encode("a\ud800b", add_special_tokens=False)


def test_the_template_comes_from_the_option_then_the_jinja_file_then_the_config(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)

    def source(option: str = "") -> str:
        template = load_text_tokenizer(tmp_path, chat_template=option).template
        return template.source if template else ""

    assert "im_start" in source()
    (tmp_path / "chat_template.jinja").write_text("from file")
    assert source() == "from file"
    (tmp_path / "mine.jinja").write_text("from option")
    assert source(str(tmp_path / "mine.jinja")) == "from option"
    with pytest.raises(ConfigError, match=r"none\.jinja"):
        source("none.jinja")


def test_a_broken_config_is_one_line(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json cannot be read"):
        load_text_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="no JSON object"):
        load_text_tokenizer(tmp_path)
