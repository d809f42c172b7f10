"""Checkpoints on disk: safetensors or PyTorch .bin, one file or several behind an index."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.worker.errors import WeightsError

# In order of preference: (index of several files, single file).
SAFETENSORS = ("model.safetensors.index.json", "model.safetensors")
PYTORCH_BIN = ("pytorch_model.bin.index.json", "pytorch_model.bin")
_TURNED_ROWS = 64


class _File(Protocol):
    """One open file of a checkpoint."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> list[int]: ...

    def slice(self, name: str, dim: int, start: int, stop: int) -> Tensor: ...


class _SafetensorsFile:
    """Memory-mapped: only the bytes of the slices asked for are read."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt")

    def names(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> list[int]:
        return list(self._file.get_slice(name).get_shape())

    def slice(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        view = self._file.get_slice(name)
        if len(view.get_shape()) == 0:
            return self._file.get_tensor(name)
        return view[(*(slice(None),) * dim, slice(start, stop))]


class _BinFile:
    """Memory-mapped like the above; weights_only refuses pickles that run code."""

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> list[int]:
        return list(self._tensors[name].shape)

    def slice(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        return self._tensors[name].narrow(dim, start, stop - start)


class Checkpoint:
    """The WeightSource over a model directory. Raises WeightsError at once if a file is absent or cut short."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._files: dict[str, _File] = {}
        self._unread: set[str] = set()
        for path in _checkpoint_files(model_dir):
            file = _open(path)
            for name in file.names():
                self._files[name] = file
        self._unread = set(self._files)
        self._check_index()

    def read(self, name: str, shape: Sequence[int], out: Tensor, dim: int = 0, start: int = 0) -> None:
        file = self._files.get(name)
        if file is None:
            raise WeightsError(f"{self._model_dir}: the checkpoint has no tensor {name!r}")
        found = file.shape(name)
        if found != list(shape):
            raise WeightsError(
                f"{self._model_dir}: tensor {name!r} has shape {found}, but config.json asks for {list(shape)}"
            )
        _copy(out, file.slice(name, dim, start, start + out.shape[dim]))
        self._unread.discard(name)

    def finish(self, ignored: Sequence[str]) -> None:
        extra = sorted(name for name in self._unread if not name.endswith(tuple(ignored)))
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise WeightsError(
                f"{self._model_dir}: the checkpoint holds tensor {extra[0]!r}{more}, which the model "
                "that config.json describes does not have"
            )

    def _check_index(self) -> None:
        """A file swapped for another of the same name shows as names that the index promises and no file holds."""
        for index, _ in (SAFETENSORS, PYTORCH_BIN):
            path = self._model_dir / index
            if path.exists():
                lacking = sorted(set(_weight_map(path)) - set(self._files))
                if lacking:
                    raise WeightsError(f"{path}: names tensor {lacking[0]!r}, which none of its files holds")
                return


def _copy(out: Tensor, values: Tensor) -> None:
    """A matrix that lies transposed takes blocks of rows: copied whole, each cache line of it is fetched for one value."""
    if out.dim() == 2 and out.stride(0) == 1 and out.stride(1) > 1:
        for some_out, some in zip(out.split(_TURNED_ROWS), values.split(_TURNED_ROWS), strict=True):
            some_out.copy_(some)
    else:
        out.copy_(values)


def _checkpoint_files(model_dir: Path) -> list[Path]:
    if not model_dir.is_dir():
        raise WeightsError(f"model directory {str(model_dir)!r} does not exist")
    for index, single in (SAFETENSORS, PYTORCH_BIN):
        if (model_dir / index).exists():
            names = sorted(set(_weight_map(model_dir / index).values()))
            absent = [name for name in names if not (model_dir / name).exists()]
            if absent:
                raise WeightsError(
                    f"{model_dir}: half a checkpoint: {index} names {absent[0]!r}, which is absent "
                    f"({len(absent)} of {len(names)} files are)"
                )
            return [model_dir / name for name in names]
        if (model_dir / single).exists():
            return [model_dir / single]
    raise WeightsError(
        f"{model_dir} holds no weights: neither {SAFETENSORS[1]} nor {PYTORCH_BIN[1]} nor an index"
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise TypeError("'weight_map' is no object with entries")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} cannot be read: {error}") from None
    return weight_map


def _open(path: Path) -> _File:
    try:
        return _SafetensorsFile(path) if path.suffix == ".safetensors" else _BinFile(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} is cut short or damaged: {reason}") from None
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is damaged or holds something other than tensors, which is not loaded"
        ) from None
