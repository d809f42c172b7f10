"""What services without torch need of a checkpoint: where it is, its name, its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from services.common.errors import ConfigError

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"


def model_path(model_dir: str) -> Path:
    """The checkpoint's directory; the demo model's when none was named. Raises ConfigError."""
    path = Path(model_dir).expanduser() if model_dir else DEMO_MODEL
    if not path.is_dir():
        raise ConfigError(f"--model_dir {path}: there is no such directory")
    return path


def model_name(name: str, model_dir: str) -> str:
    """What clients call the model: the name that was chosen, else its directory's."""
    if name:
        return name
    return Path(model_dir).expanduser().resolve().name if model_dir else "demo"


class Tokenizer(Protocol):
    """A model's tokenizer, whichever library read it. Safe to share between tasks of one thread."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class FastTokenizer:
    """tokenizer.json, by the ``tokenizers`` library. ``backend`` is its ``tokenizers.Tokenizer``."""

    def __init__(self, backend: Any) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)


class SlowTokenizer:
    """A checkpoint without tokenizer.json, by ``transformers``. ``backend`` is its PreTrainedTokenizer."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )


def load_tokenizer(path: Path, mode: str = "auto") -> FastTokenizer | SlowTokenizer:
    """Reads a checkpoint's tokenizer. ``mode``: auto takes tokenizer.json where it is, else transformers.

    Raises ConfigError in one line. transformers is imported only when it is needed: it takes seconds.
    """
    file = path / "tokenizer.json"
    if mode != "slow" and file.is_file():
        import tokenizers

        try:
            return FastTokenizer(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises plain Exception for a file that it cannot read
            raise ConfigError(f"{file} is not a tokenizer: {error}") from error
    if mode == "fast":
        raise ConfigError(f"{path} has no tokenizer.json, which --tokenizer_mode fast asks for")
    return _load_slow(path)


def _load_slow(path: Path) -> SlowTokenizer:
    if not any(
        (path / name).is_file() for name in ("tokenizer_config.json", "tokenizer.model", "vocab.json")
    ):
        raise ConfigError(f"{path} has no tokenizer.json and no other tokenizer files")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ConfigError(
            f"{path} has no tokenizer.json; without it the package transformers is needed"
        ) from None
    try:
        return SlowTokenizer(
            AutoTokenizer.from_pretrained(str(path), use_fast=False, trust_remote_code=False)
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: its tokenizer cannot be read: {reason}") from error
