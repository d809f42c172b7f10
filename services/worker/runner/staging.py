"""A step's numbers on their way to the device: one buffer, one copy a step, and never a wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

# Fields start on multiples of this many bytes: the kernels are compiled for aligned pointers.
ALIGNMENT = 64
# Layouts are kept for shapes seen before; decode steps have few, prefill steps many.
MAX_LAYOUTS = 1024

TORCH_DTYPES = {"int64": torch.int64, "int32": torch.int32, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the fields of one combination of lengths lie."""

    host: list[list[Array]]
    """By ring entry, by field."""
    device: dict[str, Tensor]
    changing: list[int]
    """The fields that are neither steady nor empty."""
    copies: list[tuple[Tensor, Tensor]]
    """By ring entry, what is copied: (device buffer, host buffer), up to the last field's end."""


class Staging:
    """Packs named vectors and copies them to one device buffer.

    A field's place depends only on the lengths of the fields up to it, so a captured graph may keep reading the
    views it was captured with. The device buffer is overwritten by the next step: steps run in stream order. The
    host buffers go round a ring of `depth`, each guarded by an event, so that none is written while being copied.
    On cpu the device buffer is the host buffer.
    """

    def __init__(
        self, fields: dict[str, str], steady: slice, capacity: int, device: torch.device, depth: int
    ) -> None:
        """`fields`: name to dtype name, in the order packed. `steady`: those that pack() may keep. capacity: bytes."""
        self._fields = fields
        self._steady = steady
        self._changing = [*range(steady.start), *range(steady.stop, len(fields))]
        self._cuda = device.type == "cuda"
        depth = depth if self._cuda else 1
        self._host = [torch.zeros(capacity, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(depth)]
        self._device = (
            torch.zeros(capacity, dtype=torch.uint8, device=device) if self._cuda else self._host[0]
        )
        self._copied: list[torch.cuda.Event | None] = [None] * depth
        # That of every step; to ask for it each time takes longer than recording an event. (Capturing packs on a
        # stream of its own, and waits for the device after each.)
        self._stream = torch.cuda.current_stream(device) if self._cuda else None
        # What the steady fields of each entry hold: the batch's version and the lengths up to the steady fields' end.
        self._holds: list[tuple[int, tuple[int, ...]] | None] = [None] * depth
        self._next = 0
        self._layouts: dict[tuple[int, ...], _Layout] = {}

    def views(self, lengths: tuple[int, ...]) -> dict[str, Tensor]:
        """The device views that `pack` returns for fields of these lengths."""
        return self._layout(lengths).device

    def pack(
        self, values: list[Array], lengths: tuple[int, ...], version: int | None = None
    ) -> dict[str, Tensor]:
        """Copies one vector per field, of the given lengths or shorter, to the device and returns the views there.

        Values of the same `version` have the same steady fields: those are written once per host buffer.
        """
        layout = self._layout(lengths)
        entry = self._next
        self._next = entry + 1 if entry + 1 < len(self._host) else 0
        copied = self._copied[entry]
        # To ask takes less time than to wait for what has happened.
        if copied is not None and not copied.query():
            copied.synchronize()
        views = layout.host[entry]
        holds = None if version is None else (version, lengths[: self._steady.stop])
        fields = layout.changing if holds is not None and holds == self._holds[entry] else range(len(views))
        for field in fields:
            value, view = values[field], views[field]
            if value.size == view.size:
                view[...] = value
            elif value.size:
                view[: value.size] = value
        self._holds[entry] = holds
        if self._cuda:
            target, source = layout.copies[entry]
            target.copy_(source, non_blocking=True)
            if copied is None:
                copied = self._copied[entry] = torch.cuda.Event()
            copied.record(self._stream)
        return layout.device

    def _layout(self, lengths: tuple[int, ...]) -> _Layout:
        layout = self._layouts.get(lengths)
        if layout is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[lengths] = self._make_layout(lengths)
        return layout

    def _make_layout(self, lengths: tuple[int, ...]) -> _Layout:
        host: list[list[Array]] = [[] for _ in self._host]
        device: dict[str, Tensor] = {}
        offset = 0
        for (name, dtype), length in zip(self._fields.items(), lengths, strict=True):
            num_bytes = length * np.dtype(dtype).itemsize
            if offset + num_bytes > self._device.numel():
                raise ValueError(f"a step of lengths {lengths} does not fit {self._device.numel()} bytes")
            for views, buffer in zip(host, self._host, strict=True):
                views.append(buffer.numpy()[offset : offset + num_bytes].view(dtype))
            device[name] = self._device[offset : offset + num_bytes].view(TORCH_DTYPES[dtype])
            offset += -(-num_bytes // ALIGNMENT) * ALIGNMENT
        copies = [(self._device[:offset], buffer[:offset]) for buffer in self._host]
        changing = [field for field in self._changing if lengths[field]]
        return _Layout(host, device, changing, copies)


def upload(values: Array, device: torch.device) -> Tensor:
    """An array to the device without waiting for what runs there; for what is too rare or too large to stage."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.clone()
    # The caching host allocator keeps the pinned copy until the transfer is done.
    return tensor.pin_memory().to(device, non_blocking=True)
