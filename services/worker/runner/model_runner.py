"""One rank's model: turns step plans into kernels on its device, in order, without waiting for them."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kernels.attention import AttentionMeta, Workspace
from kernels.sampling import SampleOutput, sample
from services.worker.layers.attention import KVPool, StepMeta
from services.worker.models.llama import LlamaForCausalLM
from services.worker.runner.graphs import DecodeGraphs
from services.worker.runner.handle import DeviceHandle
from services.worker.runner.interface import MAX_IN_FLIGHT
from services.worker.runner.plan import StepPlan
from services.worker.runner.slots import Rows, SlotTable
from services.worker.runner.staging import ALIGNMENT, Array, Staging, upload
from services.worker.sampling.parameters import ROW_PARAMETERS, Feature, SlotParameters
from services.worker.sampling.sampler import Sampler, row_tensors

# What a step sends to the device, in this order: per token, per row, per sampled row, and block table writes.
TOKEN_FIELDS = {"ids": "int64", "positions": "int64", "slot_mapping": "int64"}
ROW_FIELDS = {"slots": "int64", "seq_lens": "int32", "query_start": "int32"}
SAMPLE_FIELDS = {
    "last_token_rows": "int64",
    "sampled_slots": "int64",
    "token_index": "int64",
    **{name: np.dtype(kind).name for name, kind in ROW_PARAMETERS.items()},
}
TABLE_FIELDS = {"table_index": "int64", "table_blocks": "int32"}
FIELDS = TOKEN_FIELDS | ROW_FIELDS | SAMPLE_FIELDS | TABLE_FIELDS

_NONE = np.empty(0, np.int64)
_ZERO = np.zeros(1, np.int64)


def graph_lengths(size: int, writes: int) -> tuple[int, ...]:
    """The lengths of FIELDS in a captured step of `size` rows: what the graph finds on the device has none."""
    absent = {"ids", "query_start", "last_token_rows", "sampled_slots"}
    return tuple(writes if name in TABLE_FIELDS else 0 if name in absent else size for name in FIELDS)


def staging_bytes(max_step_tokens: int, max_slots: int, max_writes: int) -> int:
    """Room for the largest step, with every field's start aligned."""
    per_token = sum(np.dtype(kind).itemsize for kind in TOKEN_FIELDS.values())
    per_row = sum(np.dtype(kind).itemsize for kind in (ROW_FIELDS | SAMPLE_FIELDS).values())
    per_write = sum(np.dtype(kind).itemsize for kind in TABLE_FIELDS.values())
    slack = ALIGNMENT * (len(FIELDS) + 1)
    return per_token * max_step_tokens + per_row * (max_slots + 1) + per_write * max_writes + slack


def _writes_room(writes: int) -> int:
    """The next power of two: few layouts, though the number of writes changes every step."""
    return 1 << (writes - 1).bit_length() if writes else 0


class ModelRunner:
    """Holds the model, the KV pool and every slot's state. Not safe for concurrent use."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        kv: KVPool,
        cos_sin: Tensor,
        workspace: Workspace | None,
        max_slots: int,
        max_model_len: int,
        max_step_tokens: int,
    ) -> None:
        self.device = cos_sin.device
        self.model = model
        self.max_slots = max_slots
        self._kv = kv
        self._cos_sin = cos_sin
        self._workspace = workspace
        self._table = SlotTable(max_slots, max_model_len, kv.block_size)
        self._parameters = SlotParameters(max_slots)
        self._upload = partial(upload, device=self.device)
        self._sampler = Sampler(self._parameters, model.config.vocab_size, self.device, self._upload)
        capacity = staging_bytes(max_step_tokens, max_slots, self._table.tables.size)
        self._staging = Staging(FIELDS, capacity, self.device, depth=MAX_IN_FLIGHT + 1)
        # The row after the last slot is the padding rows' scratch.
        self._last_token = torch.zeros(max_slots + 1, dtype=torch.int64, device=self.device)
        host_tables = torch.from_numpy(self._table.tables)
        self._tables = host_tables if self.device.type == "cpu" else host_tables.to(self.device)
        self._max_model_len = max_model_len
        self._graphs: DecodeGraphs | None = None
        self._query_start = torch.zeros(1, dtype=torch.int32, device=self.device)
        self._in_flight: deque[DeviceHandle] = deque()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> DeviceHandle:
        """Enqueues the step. On cpu it has run when this returns."""
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            self._in_flight.popleft().result()
        for start in plan.starts:
            self._table.context[start.slot] = 0
            self._parameters.start(start)
            self._sampler.start(start)
        table_index = self._table.write_blocks(plan)
        rows = self._table.advance(plan)
        sampled_slots = rows.slots[rows.sampled]
        features = self._parameters.take_features(sampled_slots)
        output = self._run(plan, rows, sampled_slots, features, table_index)
        self._parameters.token_index[sampled_slots] += 1
        handle = DeviceHandle(plan.step, sampled_slots, output, self.device)
        self._in_flight.append(handle)
        return handle

    def _run(
        self, plan: StepPlan, rows: Rows, sampled_slots: Array, features: Feature, table_index: Array
    ) -> SampleOutput | None:
        if self._graphs is not None and not plan.prefills:
            size = self._graphs.bucket(len(rows.slots))
            if size is not None:
                return self._run_graph(self._graphs, size, plan, rows, features, table_index)
        views = self._staging.pack(self._step_values(plan, rows, sampled_slots, table_index))
        self._write_tables(views)
        num_decodes = len(plan.decode_slots)
        ids = views["ids"]
        if num_decodes:
            torch.index_select(self._last_token, 0, views["slots"][:num_decodes], out=ids[:num_decodes])
        meta = AttentionMeta(
            block_tables=self._tables.index_select(0, views["slots"]),
            seq_lens=views["seq_lens"],
            query_start=views["query_start"],
            num_decodes=num_decodes,
            max_query_len=int(rows.query_lens.max()),
            max_seq_len=int(rows.seq_lens.max()),
            workspace=self._workspace,
        )
        hidden = self._forward(ids, views, meta)
        if not len(rows.sampled):
            return None
        if len(rows.sampled) < len(rows.positions):
            hidden = hidden.index_select(0, views["last_token_rows"])
        return self._sample(self.model.logits(hidden), views, sampled_slots, features)

    def _run_graph(
        self,
        graphs: DecodeGraphs,
        size: int,
        plan: StepPlan,
        rows: Rows,
        features: Feature,
        table_index: Array,
    ) -> SampleOutput:
        """A step of decodes, padded to a captured size."""
        num_rows = len(rows.slots)
        writes = _writes_room(len(table_index))
        values = self._graph_values(size, rows, table_index, plan.table_blocks, writes)
        views = self._staging.pack(values, graph_lengths(size, writes))
        self._write_tables(views)
        hidden = graphs.forward(size)
        output = graphs.finish(size, features)
        if output is None:
            views = {name: view[:num_rows] for name, view in views.items()} | {
                "sampled_slots": views["slots"][:num_rows]
            }
            return self._sample(self.model.logits(hidden[:num_rows]), views, rows.slots, features)
        return SampleOutput(output.ids[:num_rows])

    def _graph_values(
        self, size: int, rows: Rows, table_index: Array, table_blocks: list[int], writes: int
    ) -> list[Array]:
        """The step's numbers in the order of FIELDS, padding rows included; see graph_lengths."""
        num_rows = len(rows.slots)
        slots = np.full(size, self.max_slots, np.int64)
        slots[:num_rows] = rows.slots
        positions = np.zeros(size, np.int64)
        positions[:num_rows] = rows.positions
        slot_mapping = np.full(size, -1, np.int64)
        slot_mapping[:num_rows] = rows.slot_mapping
        seq_lens = np.zeros(size, np.int64)
        seq_lens[:num_rows] = rows.seq_lens
        # Room left over writes block 0 to the padding rows' slot.
        index = np.full(writes, self.max_slots * self._table.tables.shape[1], np.int64)
        index[: len(table_index)] = table_index
        blocks = np.zeros(writes, np.int32)
        blocks[: len(table_index)] = table_blocks
        sampling = [
            self._parameters.token_index[slots],
            *(n[slots] for n in self._parameters.numbers.values()),
        ]
        return [
            _NONE,
            positions,
            slot_mapping,
            slots,
            seq_lens,
            _NONE,
            _NONE,
            _NONE,
            *sampling,
            index,
            blocks,
        ]

    @torch.inference_mode()
    def capture_graphs(self, sizes: list[int]) -> None:
        """Captures decode steps of these sizes. Afterwards steps of decodes alone are replayed."""
        self._query_start = torch.arange(max(sizes) + 1, dtype=torch.int32, device=self.device)
        self._graphs = DecodeGraphs(sizes, self._graph_forward, self._graph_finish, self._graph_inputs)

    def _graph_inputs(self, size: int) -> None:
        none = Rows(*(np.empty(0, np.int64) for _ in Rows._fields))
        self._staging.pack(self._graph_values(size, none, _NONE, [], 0), graph_lengths(size, 0))

    def _graph_forward(self, size: int) -> Tensor:
        views = self._staging.views(graph_lengths(size, 0))
        meta = AttentionMeta(
            block_tables=self._tables.index_select(0, views["slots"]),
            seq_lens=views["seq_lens"],
            query_start=self._query_start[: size + 1],
            num_decodes=size,
            max_query_len=1,
            max_seq_len=self._max_model_len,
            workspace=self._workspace,
        )
        return self._forward(self._last_token.index_select(0, views["slots"]), views, meta)

    def _graph_finish(self, size: int, hidden: Tensor, kind: Feature) -> SampleOutput:
        views = self._staging.views(graph_lengths(size, 0))
        output = sample(self.model.logits(hidden), row_tensors(views, kind), views["token_index"])
        self._last_token.index_copy_(0, views["slots"], output.ids)
        return output

    def _forward(self, ids: Tensor, views: dict[str, Tensor], meta: AttentionMeta) -> Tensor:
        step = StepMeta(views["slot_mapping"], self._cos_sin, meta)
        return self.model.forward(ids, views["positions"], self._kv, step)

    def _sample(
        self, logits: Tensor, views: dict[str, Tensor], sampled_slots: Array, features: Feature
    ) -> SampleOutput:
        output = self._sampler.sample(logits, views, sampled_slots, features)
        self._last_token.index_copy_(0, views["sampled_slots"], output.ids)
        return output

    def _step_values(
        self, plan: StepPlan, rows: Rows, sampled_slots: Array, table_index: Array
    ) -> list[Array]:
        """The step's numbers in the order of FIELDS."""
        if plan.prefills:
            decodes = np.zeros(len(plan.decode_slots), np.int64)  # filled in on the device
            ids = np.concatenate([decodes, *(chunk.token_ids for chunk in plan.prefills)])
        else:
            ids = rows.positions  # any numbers of the right length: all are filled in on the device
        ends = np.cumsum(rows.query_lens)
        query_start = np.concatenate((_ZERO, ends))
        numbers = self._parameters.numbers
        return [
            ids,
            rows.positions,
            rows.slot_mapping,
            rows.slots,
            rows.seq_lens,
            query_start,
            ends[rows.sampled] - 1,
            sampled_slots,
            self._parameters.token_index[sampled_slots],
            *(values[sampled_slots] for values in numbers.values()),
            table_index,
            np.asarray(plan.table_blocks, np.int32),
        ]

    def _write_tables(self, views: dict[str, Tensor]) -> None:
        # On cpu the device's tables are the host's, which are written already.
        if self.device.type != "cpu" and len(views["table_index"]):
            self._tables.view(-1).index_copy_(0, views["table_index"], views["table_blocks"])
