"""The model's tokenizer, as far as the gateway needs it: text to ids, ids to text, the template's tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as RustTokenizer

from services.common.errors import ConfigError, InvalidValue
from services.gateway.text.template import ChatTemplate

# Texts up to here are encoded on the event loop, in well under a millisecond; longer ones in a thread.
_INLINE_CHARS = 4096


class Backend(Protocol):
    """What an implementation of a tokenizer must do. Thread-safe."""

    vocab_size: int

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str: ...

    def token_of(self, token_id: int) -> str | None: ...

    def special_tokens(self) -> set[str]: ...


class FastBackend:
    """tokenizer.json, read by the Rust library directly."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = RustTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ConfigError(f"{path} is not a tokenizer: {error}") from error
        # Truncation and padding belong to training; a file may have been saved with them on.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id)

    def special_tokens(self) -> set[str]:
        return {t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special}


class SlowBackend:
    """For models without tokenizer.json: transformers' own implementation, imported only then."""

    def __init__(self, directory: Path) -> None:
        try:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
        except Exception as error:
            raise ConfigError(f"no usable tokenizer in {directory}: {error}") from error
        self.vocab_size = len(self._tokenizer)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_of(self, token_id: int) -> str | None:
        return self._tokenizer.convert_ids_to_tokens(token_id)

    def special_tokens(self) -> set[str]:
        return set(self._tokenizer.all_special_tokens)


class TextTokenizer:
    """A backend with what the model's other files say. Encoding of long texts leaves the event loop free."""

    def __init__(self, backend: Backend, template: ChatTemplate | None, executor: Executor) -> None:
        self._backend, self._executor = backend, executor
        self.template = template
        self.special_tokens = backend.special_tokens()
        self._bytes = _TokenBytes(backend, self.special_tokens)

    @property
    def vocab_size(self) -> int:
        return self._backend.vocab_size

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            if len(text) <= _INLINE_CHARS:
                return self._backend.encode(text, add_special_tokens)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._backend.encode, text, add_special_tokens)
        except (UnicodeError, TypeError) as error:  # lone surrogates
            raise InvalidValue(f"the text is not valid Unicode: {error}", param="prompt") from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self._backend.decode(ids, skip_special_tokens)

    def token_of(self, token_id: int) -> str:
        return self._backend.token_of(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for; part of a character for some."""
        return self._bytes.of(token_id)


class _TokenBytes:
    """The bytes of single tokens, remembered: log probabilities ask for the same ones again and again."""

    def __init__(self, backend: Backend, special: set[str]) -> None:
        self._backend, self._special = backend, special
        self._known: dict[int, bytes] = {}
        self._byte_of = {char: byte for byte, char in _byte_level_alphabet().items()}
        # Byte-level vocabularies write a space as this character, SentencePiece ones as U+2581.
        self._is_byte_level = backend.token_of(backend.encode(" a", False)[-1] if backend.encode(" a", False) else 0) is not None and any(
            "\u0120" in (backend.token_of(i) or "") for i in backend.encode(" a b", False)
        )

    def of(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> bytes:
        token = self._backend.token_of(token_id)
        if token is None:
            return b""
        if token in self._special:
            return token.encode()
        if self._is_byte_level and all(char in self._byte_of for char in token):
            return bytes(self._byte_of[char] for char in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode("utf-8", "surrogatepass")


def _byte_level_alphabet() -> dict[int, str]:
    """GPT-2's map from bytes to printable characters: printable Latin-1 as itself, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def load_tokenizer(directory: Path, *, mode: str = "auto", chat_template: str = "") -> TextTokenizer:
    """The tokenizer of a model directory. Raises ConfigError in one line for whatever is missing or broken."""
    if not directory.is_dir():
        raise ConfigError(f"--model_dir {directory} is not a directory")
    path = directory / "tokenizer.json"
    if mode == "slow" or (mode == "auto" and not path.exists()):
        backend: Backend = SlowBackend(directory)
    elif path.exists():
        backend = FastBackend(path)
    else:
        raise ConfigError(f"{directory} has no tokenizer.json")
    config = read_json(directory / "tokenizer_config.json")
    tokens = _template_tokens({**read_json(directory / "special_tokens_map.json"), **config})
    source = _template_source(directory, config, chat_template)
    template = ChatTemplate(source, tokens) if source else None
    return TextTokenizer(backend, template, ThreadPoolExecutor(2, "tokenize"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory; empty when there is no such file."""
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
    """The template's text: --chat_template, else chat_template.jinja or .json, else tokenizer_config.json."""
    if override:
        path = Path(override)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        if "{" in override:
            return override
        raise ConfigError(f"--chat_template {override}: no such file")
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    source = read_json(directory / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(source, list):  # several by name
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default") or next(iter(named.values()), "")
    return source if isinstance(source, str) else ""
