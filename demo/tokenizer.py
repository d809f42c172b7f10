"""The tokenizer: byte-level BPE trained on the generator's text, ChatML special tokens, single digits.

`python -m demo.tokenizer` trains it and writes tokenizer.json, tokenizer_config.json and chat_template.jinja.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from demo.data.mix import training_cases
from demo.render import MODEL_DIR, TEMPLATE_PATH, Renderer

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never part of a text: hidden when decoding without special tokens."""

MARKUP_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Single tokens that stay visible in the text, because the parsers of reasoning and tool calls read them."""

VOCABULARY_SIZE = 8192
MAX_LENGTH = 4096

# Words with at most a space before them, digits one by one, runs of punctuation, runs of white space.
_PIECES = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterator[str], vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Trains on `texts`. Every byte is in the alphabet, so every text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(CONTROL_TOKENS) - len(MARKUP_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in MARKUP_TOKENS])
    return tokenizer


def training_texts(seed: int, count: int) -> Iterator[str]:
    """The text of training cases, without the control and markup tokens that BPE must not learn from."""
    renderer = Renderer()
    for case in itertools.islice(training_cases(seed), count):
        prompt, completion = renderer.render(case)
        text = prompt + completion
        for token in (*CONTROL_TOKENS, *MARKUP_TOKENS):
            text = text.replace(token, "\n")
        yield text


def tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE_PATH.read_text(),
    }


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(TEMPLATE_PATH.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.tokenizer", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=60_000, help="training cases to learn the merges from")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    args = parser.parse_args()
    tokenizer = train_tokenizer(training_texts(args.seed, args.cases))
    save_tokenizer(tokenizer, args.out)
    print(f"{tokenizer.get_vocab_size()} entries in {args.out}")


if __name__ == "__main__":
    main()
