"""Small real tokenizers of the three kinds that the decoder tells apart."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from services.common.model_files import FastTokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then it rains in Spain",
    "größer als zuvor; naïve café; Привет мир; 你好，世界。こんにちは",
    "emoji 😀👍🏽👨‍👩‍👧‍👦 and e\u0301 combining",
] * 4
SPECIAL = [AddedToken("<|end|>", special=True), AddedToken("<|start|>", special=True)]


@pytest.fixture(scope="session")
def byte_level() -> FastTokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens(["<tool 世界>"])
    return FastTokenizer(backend)


def sentencepiece_like(steps: list[object]) -> FastTokenizer:
    words = [
        "<unk>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "a",
        "b",
        "é",
        "世",
        "▁the",
        "▁▁",
        "th",
        "e",
    ]
    backend = Tokenizer(
        models.BPE(
            vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>", byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(SPECIAL)
    return FastTokenizer(backend)


@pytest.fixture(scope="session")
def byte_fallback() -> FastTokenizer:
    """As Llama 2 and Mistral have it: the first space of the whole text is stripped."""
    replace = decoders.Replace("▁", " ")
    return sentencepiece_like([replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


@pytest.fixture(scope="session")
def byte_fallback_unstripped() -> FastTokenizer:
    """As Gemma has it."""
    return sentencepiece_like([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


@pytest.fixture(scope="session")
def metaspace() -> FastTokenizer:
    """A kind that the tables do not cover."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    backend.add_special_tokens(SPECIAL)
    return FastTokenizer(backend)
