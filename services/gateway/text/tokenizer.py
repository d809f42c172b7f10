"""The model's tokenizer, as far as the gateway needs it: text to ids, ids to bytes, the chat template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from services.common.errors import ConfigError, InvalidValue
from services.common.model_files import FastTokenizer, SlowTokenizer, load_tokenizer
from services.gateway.text.template import ChatTemplate

# Texts up to here are encoded on the event loop, in about a millisecond; longer ones in a thread.
_INLINE_CHARS = 4096


class TextTokenizer:
    """Encoding of long texts leaves the event loop free: the Rust library releases the interpreter's lock."""

    def __init__(
        self, tokenizer: FastTokenizer | SlowTokenizer, template: ChatTemplate | None, executor: Executor
    ) -> None:
        self._tokenizer, self._executor = tokenizer, executor
        self.template = template
        self.vocab_size = _vocab_size(tokenizer)
        self.special_tokens = _special_tokens(tokenizer)
        self._is_byte_level = _is_byte_level(tokenizer)
        self._byte_of = {char: byte for byte, char in _byte_level_alphabet().items()}
        self._bytes: dict[int, bytes] = {}  # log probabilities ask for the same tokens again and again

    async def encode(self, text: str, *, add_special_tokens: bool, param: str = "prompt") -> list[int]:
        try:
            if len(text) <= _INLINE_CHARS:
                return self._tokenizer.encode(text, add_special_tokens)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._executor, self._tokenizer.encode, text, add_special_tokens
            )
        except (UnicodeError, TypeError) as error:  # lone surrogates
            raise InvalidValue(f"{param} is not valid Unicode", param=param) from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens)

    def token_of(self, token_id: int) -> str:
        """The token as the vocabulary writes it; "" for an id that is none."""
        backend = self._tokenizer.backend
        if isinstance(self._tokenizer, FastTokenizer):
            return backend.id_to_token(token_id) or ""
        return backend.convert_ids_to_tokens(token_id) or ""

    def id_of(self, token: str) -> int | None:
        backend = self._tokenizer.backend
        if isinstance(self._tokenizer, FastTokenizer):
            return backend.token_to_id(token)
        return backend.convert_tokens_to_ids(token)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for: for some a part of a character."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(self.token_of(token_id))
        return known

    def _find_bytes(self, token: str) -> bytes:
        if token in self.special_tokens:
            return token.encode()
        if self._is_byte_level:
            if all(char in self._byte_of for char in token):
                return bytes(self._byte_of[char] for char in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        else:
            token = token.replace("\u2581", " ")  # sentencepiece's space
        return token.encode("utf-8", "surrogatepass")


def _vocab_size(tokenizer: FastTokenizer | SlowTokenizer) -> int:
    if isinstance(tokenizer, FastTokenizer):
        return tokenizer.backend.get_vocab_size()
    return len(tokenizer.backend)


def _special_tokens(tokenizer: FastTokenizer | SlowTokenizer) -> frozenset[str]:
    if isinstance(tokenizer, FastTokenizer):
        added = tokenizer.backend.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)
    return frozenset(tokenizer.backend.all_special_tokens)


def _is_byte_level(tokenizer: FastTokenizer | SlowTokenizer) -> bool:
    """Whether tokens are written in GPT-2's alphabet of bytes."""
    if not isinstance(tokenizer, FastTokenizer) or tokenizer.backend.decoder is None:
        return False
    state = json.loads(tokenizer.backend.decoder.__getstate__())
    return any(step.get("type") == "ByteLevel" for step in (state, *state.get("decoders", [])))


def _byte_level_alphabet() -> dict[int, str]:
    """GPT-2's map from bytes to printable characters: printable Latin-1 as itself, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def load_text_tokenizer(directory: Path, *, mode: str = "auto", chat_template: str = "") -> TextTokenizer:
    """The tokenizer and template of a checkpoint. Raises ConfigError in one line for what is missing or broken."""
    tokenizer = load_tokenizer(directory, mode)
    config = read_json(directory / "tokenizer_config.json")
    tokens = _template_tokens({**read_json(directory / "special_tokens_map.json"), **config})
    source = _template_source(directory, config, chat_template)
    template = ChatTemplate(source, tokens) if source else None
    return TextTokenizer(tokenizer, template, ThreadPoolExecutor(2, "tokenize"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint; empty when there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return content


def _template_tokens(config: dict[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _template_source(directory: Path, config: dict[str, Any], override: str) -> str:
    """The template: --chat_template, else chat_template.jinja or .json, else tokenizer_config.json's."""
    if override:
        path = Path(override)
        if not path.is_file():
            raise ConfigError(f"--chat_template {override}: there is no such file")
        return path.read_text(encoding="utf-8")
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    source = read_json(directory / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default") or next(iter(named.values()), "")
    return source if isinstance(source, str) else ""
