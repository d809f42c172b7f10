"""Whether a directory holds a whole Hugging Face checkpoint: without torch, by the files' own headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import psutil

from services.cli.check.result import Result, fail, ok, warn

GIB = 1024**3
MAX_HEADER_BYTES = 100 * 1024 * 1024


def files(path: Path, *, is_demo: bool) -> list[Result]:
    if not path.is_dir():
        advice = "name a checkpoint with --model_dir" if is_demo else "mend --model_dir"
        return [fail("model", f"{path}: no such directory", advice)]
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [fail("model", f"config.json: {error}", "download the checkpoint again, all files of it")]
    kind = (config.get("architectures") or ["no architecture named"])[0]
    return [ok("model", f"{path}: {kind}"), *_tokenizer(path), *_weights(path)]


def _tokenizer(path: Path) -> list[Result]:
    if not (path / "tokenizer.json").is_file():
        return [
            fail("tokenizer", "no tokenizer.json", "make one: transformers' AutoTokenizer, save_pretrained")
        ]
    try:
        settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    if not settings.get("chat_template") and not list(path.glob("chat_template.*")):
        return [
            warn(
                "tokenizer",
                "no chat template",
                "give one with --chat_template; /v1/completions works without",
            )
        ]
    return [ok("tokenizer", "with a chat template")]


def _weights(path: Path) -> list[Result]:
    shards = _shard_names(path)
    if not shards:
        return [warn("weights", "no .safetensors or .bin files", "use --load_format dummy, or download them")]
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        return [
            fail("weights", f"{len(missing)} of {len(shards)} files missing: {shown}", "download them again")
        ]
    for name in shards:
        reason = _broken(path / name) if name.endswith(".safetensors") else ""
        if reason:
            return [fail("weights", f"{name}: {reason}", "the download broke off: fetch this file again")]
    size = sum((path / name).stat().st_size for name in shards)
    detail = f"{size / GIB:.2f} GiB in {len(shards)} files"
    if size > psutil.virtual_memory().total * 4:
        return [warn("weights", detail, "far more than this machine's memory: expect it not to fit")]
    return [ok("weights", detail)]


def _shard_names(path: Path) -> list[str]:
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        try:
            return sorted(set(json.loads((path / index).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return sorted(p.name for pattern in ("*.safetensors", "pytorch_model*.bin") for p in path.glob(pattern))


def _broken(path: Path) -> str:
    """Why a safetensors file is not whole; empty when its header and its length fit together.

    The format: a little-endian u64 header length, that many bytes of JSON, then the tensors' bytes.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return "shorter than its header"
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            return "not a safetensors file"
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return "its header is damaged"
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    wanted, there = 8 + length + max(ends, default=0), path.stat().st_size
    return f"{there} bytes of {wanted}" if there < wanted else ""
