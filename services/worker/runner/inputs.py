"""The numbers that a step sends to the device: their names, their order and what padding rows get."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from services.worker.runner.plan import StepPlan
from services.worker.runner.shapes import MAX_CHUNKS, StepShape
from services.worker.runner.slots import NO_ROWS, Array, Rows
from services.worker.runner.staging import ALIGNMENT
from services.worker.sampling.parameters import ROW_PARAMETERS, SlotParameters

# Per token.
_TOKEN_FIELDS = {"ids": "int64", "positions": "int64", "slot_mapping": "int64"}
# Per row; the second group stays the same from one decode step to the next while the batch does.
_MOVING_FIELDS = {"seq_lens": "int32", "token_index": "int64"}
_STEADY_FIELDS = {
    "slots": "int64",
    "query_start": "int32",
    "last_token_rows": "int64",
    "sampled_slots": "int64",
    "sampled_lens": "int32",
    **{name: np.dtype(kind).name for name, kind in ROW_PARAMETERS.items()},
}
# Block table writes.
_TABLE_FIELDS = {"table_index": "int64", "table_blocks": "int32"}

FIELDS = _TOKEN_FIELDS | _MOVING_FIELDS | _STEADY_FIELDS | _TABLE_FIELDS
STEADY = slice(len(_TOKEN_FIELDS | _MOVING_FIELDS), len(FIELDS) - len(_TABLE_FIELDS))
# What a decode step finds on the device or does not need.
_NOT_IN_DECODES = {"ids", "query_start", "last_token_rows", "sampled_slots", "sampled_lens"}
_NONE = np.empty(0, np.int64)
_ZERO = np.zeros(1, np.int64)
NO_WRITES: list[Array] = [_NONE, np.empty(0, np.int32)]


def staging_bytes(max_step_tokens: int, max_slots: int, max_writes: int) -> int:
    """Room for the largest step, with every field's start aligned."""
    counts = {"token": max_step_tokens + max_slots, "row": max_slots + MAX_CHUNKS + 1, "write": max_writes}
    size = 0
    for name, dtype in FIELDS.items():
        kind = "token" if name in _TOKEN_FIELDS else "write" if name in _TABLE_FIELDS else "row"
        size += counts[kind] * np.dtype(dtype).itemsize + ALIGNMENT
    return size


@cache
def decode_lengths(size: int, writes: int) -> tuple[int, ...]:
    """The lengths of FIELDS in a step of `size` decode rows, padding included, and `writes` table writes."""
    return tuple(
        writes if name in _TABLE_FIELDS else 0 if name in _NOT_IN_DECODES else size for name in FIELDS
    )


@cache
def mixed_lengths(shape: StepShape) -> tuple[int, ...]:
    """The lengths of FIELDS in a captured step with chunks, padding included, without table writes."""
    others = {"query_start": shape.rows + 1} | dict.fromkeys(_TOKEN_FIELDS, shape.tokens)
    others |= dict.fromkeys(_TABLE_FIELDS, 0)
    return tuple(others.get(name, shape.rows) for name in FIELDS)


def writes_room(writes: int, max_writes: int) -> int:
    """The next power of two: few layouts, though the number of writes changes every step. Never more than the most."""
    return min(1 << (writes - 1).bit_length(), max_writes) if writes else 0


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """The decode rows of a step, kept for the following steps while they stay the same."""

    version: int
    plan_slots: list[int]
    slots: Array
    """int64 [rows], without padding."""
    size: int
    """Rows with padding."""
    is_captured: bool
    """Whether there is a graph of this size."""
    steady: list[Array]
    """The steady fields of FIELDS, padding included."""


def decode_batch(
    version: int, plan_slots: list[int], size: int, is_captured: bool, parameters: SlotParameters
) -> DecodeBatch:
    slots = np.asarray(plan_slots, np.int64)
    padded = _pad(slots, size, parameters.max_slots)
    numbers = [values[padded] for values in parameters.numbers.values()]
    return DecodeBatch(
        version, plan_slots, slots, size, is_captured, [padded, _NONE, _NONE, _NONE, _NONE, *numbers]
    )


def decode_values(
    batch: DecodeBatch,
    positions: Array,
    slot_mapping: Array,
    seq_lens: Array,
    token_index: Array,
    writes: list[Array],
) -> list[Array]:
    """A decode step's numbers in the order of FIELDS. Padding rows: no context, nothing stored."""
    size = batch.size
    return [
        _NONE,
        _pad(positions, size, 0),
        _pad(slot_mapping, size, -1),
        _pad(seq_lens, size, 0),
        _pad(token_index, size, 0),
        *batch.steady,
        *writes,
    ]


def table_writes(index: Array, blocks: list[int], spare_index: int, max_writes: int) -> list[Array]:
    """The table writes, filled up to `writes_room` with writes of block 0 to `spare_index`."""
    room = writes_room(len(index), max_writes)
    return [_pad(index, room, spare_index), _pad(np.asarray(blocks, np.int32), room, 0)]


def mixed_values(
    plan: StepPlan,
    rows: Rows,
    rope_rows: Array,
    parameters: SlotParameters,
    writes: list[Array],
    shape: StepShape | None,
) -> list[Array]:
    """The numbers of a step with chunks, in the order of FIELDS. rope_rows: [T], from RopeRows.place.

    A decode's id is ~slot: the device has it. Padded to `shape`: decode rows without context, chunks and, after the
    last token, tokens of no row. Tokens have no padding in between: the first chunk's come right after the decodes'.
    Of a step that samples nothing, the rows that sample are one of padding: no product has a form for none.
    """
    ids = [~rows.slots[: len(plan.decode_slots)], *(chunk.token_ids for chunk in plan.prefills)]
    scratch = parameters.max_slots
    num_sampled = max(len(rows.sampled), 1) if shape is None else shape.rows
    sampled_slots = _pad(rows.slots[rows.sampled], num_sampled, scratch)
    last_tokens = _pad(np.cumsum(rows.query_lens)[rows.sampled] - 1, num_sampled, 0)
    sampled_lens = _pad(rows.seq_lens[rows.sampled], num_sampled, 0)
    tokens = [np.concatenate(ids), rope_rows, rows.slot_mapping]
    slots, seq_lens, query_lens = rows.slots, rows.seq_lens, rows.query_lens
    if shape is not None:
        tokens = [_pad(values, shape.tokens, fill) for values, fill in zip(tokens, (0, 0, -1), strict=True)]
        slots, seq_lens, query_lens = (
            _pad_rows(values, len(plan.decode_slots), shape, fill)
            for values, fill in ((slots, scratch), (seq_lens, 0), (query_lens, 0))
        )
    return [
        *tokens,
        seq_lens,
        parameters.token_index[sampled_slots],
        slots,
        np.concatenate((_ZERO, np.cumsum(query_lens))),
        last_tokens,
        sampled_slots,
        sampled_lens,
        *(values[sampled_slots] for values in parameters.numbers.values()),
        *writes,
    ]


def empty_step(shape: StepShape, parameters: SlotParameters) -> list[Array]:
    """The numbers of a step that is all padding."""
    return mixed_values(StepPlan(0), NO_ROWS, _NONE, parameters, NO_WRITES, shape)


def _pad_rows(values: Array, num_decodes: int, shape: StepShape, fill: int) -> Array:
    """Pads the decode rows and the chunks of `values`, each to the shape's number of them."""
    padded = np.full(shape.rows, fill, values.dtype)
    padded[:num_decodes] = values[:num_decodes]
    chunks = values[num_decodes:]
    padded[shape.decodes : shape.decodes + len(chunks)] = chunks
    return padded


def _pad(values: Array, size: int, fill: int) -> Array:
    if values.size == size:
        return values
    padded = np.full(size, fill, values.dtype)
    padded[: values.size] = values
    return padded
