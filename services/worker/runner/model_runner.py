"""One rank's model: turns step plans into kernels on its device, in order, without waiting for them."""

from __future__ import annotations

from collections import deque
from functools import partial

import torch
from torch import Tensor

from kernels.attention import AttentionMeta, Workspace
from kernels.sampling import SampleOutput, sample
from services.worker.layers.attention import KVPool, StepMeta
from services.worker.models.llama import LlamaForCausalLM
from services.worker.runner.dynamic_rope import RopeRows
from services.worker.runner.graphs import StepGraphs
from services.worker.runner.handle import DeviceHandle
from services.worker.runner.inputs import (
    FIELDS,
    STEADY,
    DecodeBatch,
    chunk_lengths,
    chunk_values,
    decode_batch,
    decode_lengths,
    decode_values,
    empty_chunk,
    mixed_values,
    staging_bytes,
    table_writes,
)
from services.worker.runner.interface import MAX_IN_FLIGHT
from services.worker.runner.plan import StepPlan
from services.worker.runner.prompt_scores import PromptScoreTensors, score_prompts
from services.worker.runner.slots import Array, SlotTable
from services.worker.runner.staging import Staging, upload
from services.worker.sampling.parameters import SlotParameters
from services.worker.sampling.sampler import Sampler, row_tensors

# Chunks further into their sequence are not replayed: which kernel variant is best then depends on the length.
MAX_REPLAYED_CONTEXT = 2047


class ModelRunner:
    """Holds the model, the KV pool and every slot's state. Not safe for concurrent use."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        kv: KVPool,
        rope: RopeRows,
        workspace: Workspace | None,
        max_slots: int,
        max_model_len: int,
        max_step_tokens: int,
    ) -> None:
        self.device = rope.cos_sin.device
        self.model = model
        self._max_model_len = max_model_len
        self._kv = kv
        self._rope = rope
        self._workspace = workspace
        self._table = SlotTable(max_slots, max_model_len, kv.block_size)
        self._parameters = SlotParameters(max_slots)
        self._sampler = Sampler(
            self._parameters, model.config.vocab_size, self.device, partial(upload, device=self.device)
        )
        capacity = staging_bytes(max_step_tokens, max_slots, 2 * self._table.tables.size)
        self._staging = Staging(FIELDS, STEADY, capacity, self.device, depth=MAX_IN_FLIGHT + 1)
        # The row after the last slot is the padding rows' scratch.
        self._last_token = torch.zeros(max_slots + 1, dtype=torch.int64, device=self.device)
        host_tables = torch.from_numpy(self._table.tables)
        self._tables = host_tables if self.device.type == "cpu" else host_tables.to(self.device)
        self._decode_starts = torch.arange(max_slots + 1, dtype=torch.int32, device=self.device)
        self._graphs: StepGraphs | None = None
        self._chunk_graphs: StepGraphs | None = None
        self._batch: DecodeBatch | None = None
        self._num_batches = 0
        self._in_flight: deque[DeviceHandle] = deque()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> DeviceHandle:
        """Enqueues the step. On cpu it has run when this returns."""
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            self._in_flight.popleft().result()
        for start in plan.starts:
            self._table.context[start.slot] = 0
            self._rope.start(start)
            self._parameters.start(start)
            self._sampler.start(start)
            self._batch = None
        table_index = self._table.write_blocks(plan)
        # Room left over among the writes goes to the padding rows' slot.
        spare = self._table.max_slots * self._table.tables.shape[1]
        writes = table_writes(table_index, plan.table_blocks, spare)
        prompt: PromptScoreTensors | None = None
        if plan.prefills:
            slots, output, prompt = self._run_mixed(plan, writes)
        else:
            slots, output = self._run_decodes(plan.decode_slots, writes)
        self._parameters.token_index[slots] += 1
        handle = DeviceHandle(plan.step, slots, output, self.device, prompt)
        self._in_flight.append(handle)
        return handle

    @torch.inference_mode()
    def capture_graphs(self, sizes: list[int], chunk_sizes: list[int]) -> None:
        """Captures decode steps of `sizes` rows and steps of one chunk of `chunk_sizes` tokens.

        Afterwards steps of decodes alone, and of one chunk alone, are replayed, padded to one of these.
        """

        def decode_inputs(size: int) -> None:
            batch = decode_batch(-1, [], size, self._parameters)
            none = batch.slots
            values = decode_values(batch, none, none, none, table_writes(none, [], 0))
            self._staging.pack(values, decode_lengths(size, 0))

        def decode(size: int) -> Tensor:
            return self._forward_decodes(
                self._staging.views(decode_lengths(size, 0)), size, self._max_model_len
            )

        def draw(views: dict[str, Tensor], slots: str, hidden: Tensor, features: int) -> SampleOutput:
            output = sample(self.model.logits(hidden), row_tensors(views, features), views["token_index"])
            self._last_token.index_copy_(0, views[slots], output.ids)
            return output

        def draw_decodes(size: int, hidden: Tensor, features: int) -> SampleOutput:
            return draw(self._staging.views(decode_lengths(size, 0)), "slots", hidden, features)

        def chunk_inputs(size: int) -> None:
            self._staging.pack(empty_chunk(size, self._parameters), chunk_lengths(size, 0))

        def chunk(size: int) -> Tensor:
            return self._forward_chunk(self._staging.views(chunk_lengths(size, 0)), size)

        def draw_chunk(size: int, hidden: Tensor, features: int) -> SampleOutput:
            return draw(self._staging.views(chunk_lengths(size, 0)), "sampled_slots", hidden, features)

        self._graphs = StepGraphs(sizes, decode, draw_decodes, decode_inputs)
        self._chunk_graphs = StepGraphs(chunk_sizes, chunk, draw_chunk, chunk_inputs)

    def _run_decodes(self, plan_slots: list[int], writes: list[Array]) -> tuple[Array, SampleOutput | None]:
        batch = self._decode_batch(plan_slots)
        slots, rows, size = batch.slots, len(batch.slots), batch.size
        if not rows:
            return slots, None
        positions, slot_mapping = self._table.place_decodes(slots)
        values = decode_values(batch, positions, slot_mapping, self._parameters.token_index[slots], writes)
        views = self._staging.pack(values, decode_lengths(size, len(writes[0])), batch.version)
        self._write_tables(views)
        features = self._parameters.take_features(slots)
        graphs = self._captured(rows)
        if graphs is None:
            hidden = self._forward_decodes(views, size, int(positions.max()) + 1)
        else:
            hidden = graphs.forward(size)
            output = graphs.finish(size, features)
            if output is not None:
                return slots, SampleOutput(output.ids[:rows])
            views = {name: view[:rows] for name, view in views.items()}
        return slots, self._sample(hidden[:rows], views, views["slots"], slots, features)

    def _run_mixed(
        self, plan: StepPlan, writes: list[Array]
    ) -> tuple[Array, SampleOutput | None, PromptScoreTensors | None]:
        rows = self._table.place_mixed(plan.decode_slots, plan.prefills)
        rope_rows = self._rope.place(rows.positions, len(plan.decode_slots), plan.prefills)
        values = mixed_values(plan, rows, rope_rows, self._parameters, writes)
        graphs, size = self._captured_chunk(plan)
        if graphs is not None:
            return *self._run_chunk(graphs, size, rows.slots, values), None
        views = self._staging.pack(values, tuple(value.size for value in values))
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
        prompt = score_prompts(self.model, hidden, plan) if plan.has_scored else None
        slots = rows.slots[rows.sampled]
        if not len(slots):
            return slots, None, prompt
        if len(slots) < len(rows.positions):
            hidden = hidden.index_select(0, views["last_token_rows"])
        features = self._parameters.take_features(slots)
        return slots, self._sample(hidden, views, views["sampled_slots"], slots, features), prompt

    def _captured_chunk(self, plan: StepPlan) -> tuple[StepGraphs | None, int]:
        """The graphs and the size for a step that is one chunk and samples, if it is among them."""
        graphs, chunk = self._chunk_graphs, plan.prefills[0]
        if graphs is None or len(plan.prefills) > 1 or plan.decode_slots or not chunk.samples:
            return None, 0
        if chunk.start + len(chunk.token_ids) > MAX_REPLAYED_CONTEXT or plan.has_scored:
            return None, 0
        size = graphs.bucket(len(chunk.token_ids))
        return (None, 0) if size is None else (graphs, size)

    def _run_chunk(
        self, graphs: StepGraphs, size: int, slots: Array, values: list[Array]
    ) -> tuple[Array, SampleOutput | None]:
        views = self._staging.pack(chunk_values(values, size), chunk_lengths(size, values[-1].size))
        self._write_tables(views)
        features = self._parameters.take_features(slots)
        hidden = graphs.forward(size)
        output = graphs.finish(size, features)
        if output is None:
            return slots, self._sample(hidden, views, views["sampled_slots"], slots, features)
        return slots, SampleOutput(output.ids)

    def _forward_chunk(self, views: dict[str, Tensor], size: int) -> Tensor:
        """One chunk of up to `size` tokens, to the hidden state [1, H] of its last."""
        meta = AttentionMeta(
            block_tables=self._tables.index_select(0, views["slots"]),
            seq_lens=views["seq_lens"],
            query_start=views["query_start"],
            num_decodes=0,
            max_query_len=size,
            max_seq_len=min(self._max_model_len, MAX_REPLAYED_CONTEXT),
            workspace=self._workspace,
        )
        return self._forward(views["ids"], views, meta).index_select(0, views["last_token_rows"])

    def _forward_decodes(self, views: dict[str, Tensor], size: int, max_seq_len: int) -> Tensor:
        meta = AttentionMeta(
            block_tables=self._tables.index_select(0, views["slots"]),
            seq_lens=views["seq_lens"],
            query_start=self._decode_starts[: size + 1],
            num_decodes=size,
            max_query_len=1,
            max_seq_len=max_seq_len,
            workspace=self._workspace,
        )
        return self._forward(self._last_token.index_select(0, views["slots"]), views, meta)

    def _forward(self, ids: Tensor, views: dict[str, Tensor], meta: AttentionMeta) -> Tensor:
        step = StepMeta(views["slot_mapping"], self._rope.cos_sin, meta)
        return self.model.forward(ids, views["positions"], self._kv, step)

    def _sample(
        self, hidden: Tensor, views: dict[str, Tensor], device_slots: Tensor, slots: Array, features: int
    ) -> SampleOutput:
        output = self._sampler.sample(self.model.logits(hidden), views, slots, features)
        self._last_token.index_copy_(0, device_slots, output.ids)
        return output

    def _decode_batch(self, plan_slots: list[int]) -> DecodeBatch:
        batch = self._batch
        if batch is None or batch.plan_slots != plan_slots:
            graphs = self._captured(len(plan_slots))
            size = len(plan_slots) if graphs is None else graphs.bucket(len(plan_slots)) or 0
            self._num_batches += 1
            # A copy: the plan's list stays the caller's.
            batch = self._batch = decode_batch(self._num_batches, [*plan_slots], size, self._parameters)
        return batch

    def _captured(self, rows: int) -> StepGraphs | None:
        """The graphs, if a step of this many decode rows is among them."""
        graphs = self._graphs
        return graphs if graphs is not None and graphs.bucket(rows) is not None else None

    def _write_tables(self, views: dict[str, Tensor]) -> None:
        # On cpu the device's tables are the host's, which are written already.
        if self.device.type != "cpu" and len(views["table_index"]):
            self._tables.view(-1).index_copy_(0, views["table_index"], views["table_blocks"])
