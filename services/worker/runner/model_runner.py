"""One rank's model: turns step plans into kernels on its device, in order, without waiting for them."""

from __future__ import annotations

from collections import deque
from functools import partial

import torch
from torch import Tensor

from kernels.attention import AttentionMeta, Workspace
from kernels.sampling import SampleOutput, sample
from services.worker.layers.attention import KVPool, SampledRows, StepMeta
from services.worker.models.llama import LlamaForCausalLM
from services.worker.runner.dynamic_rope import RopeRows
from services.worker.runner.graphs import Size, StepGraphs
from services.worker.runner.handle import DeviceHandle, ResultBuffers
from services.worker.runner.inputs import (
    FIELDS,
    NO_WRITES,
    STEADY,
    DecodeBatch,
    decode_batch,
    decode_lengths,
    decode_values,
    empty_step,
    mixed_lengths,
    mixed_values,
    staging_bytes,
    table_writes,
)
from services.worker.runner.interface import MAX_IN_FLIGHT
from services.worker.runner.plan import StepPlan
from services.worker.runner.prompt_scores import PromptScoreTensors, score_prompts
from services.worker.runner.shapes import MAX_CHUNKS, StepShape, few_sample, fit_shape, fit_size
from services.worker.runner.slots import Array, SlotTable
from services.worker.runner.staging import Staging, upload
from services.worker.sampling.parameters import SlotParameters
from services.worker.sampling.sampler import Sampler, row_tensors


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
        self._is_cpu = self.device.type == "cpu"
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
        # A step writes each entry of the tables at most once.
        capacity = staging_bytes(max_step_tokens, max_slots, self._table.tables.size)
        self._staging = Staging(FIELDS, STEADY, capacity, self.device, depth=MAX_IN_FLIGHT + 1)
        self._results = ResultBuffers(max_slots + MAX_CHUNKS, self.device, MAX_IN_FLIGHT + 1)
        # The row after the last slot is the padding rows' scratch.
        self._last_token = torch.zeros(max_slots + 1, dtype=torch.int64, device=self.device)
        host_tables = torch.from_numpy(self._table.tables)
        self._tables = host_tables if self.device.type == "cpu" else host_tables.to(self.device)
        self._decode_starts = torch.arange(max_slots + MAX_CHUNKS + 1, dtype=torch.int32, device=self.device)
        self._decode_graphs: StepGraphs[int] | None = None
        self._mixed_graphs: StepGraphs[StepShape] | None = None
        self._batch: DecodeBatch | None = None
        self._num_batches = 0
        self._in_flight: deque[DeviceHandle] = deque()

    def launch(self, plan: StepPlan) -> DeviceHandle:
        """Enqueues the step. On cpu it has run when this returns."""
        # To enter the mode costs a small step more than its arithmetic on the host: the ranks' loops stay in it.
        if torch.is_inference_mode_enabled():
            return self._launch(plan)
        with torch.inference_mode():
            return self._launch(plan)

    def _launch(self, plan: StepPlan) -> DeviceHandle:
        while len(self._in_flight) >= MAX_IN_FLIGHT:
            self._in_flight.popleft().result()
        for start in plan.starts:
            self._table.context[start.slot] = 0
            self._rope.start(start)
            self._parameters.start(start)
            self._sampler.start(start)
            self._batch = None
        writes = self._table_writes(plan) if plan.table_slots else NO_WRITES
        prompt: PromptScoreTensors | None = None
        if plan.prefills:
            slots, output, prompt = self._run_mixed(plan, writes)
        else:
            slots, output = self._run_decodes(plan.decode_slots, writes)
        self._parameters.advance(slots)
        handle = DeviceHandle(plan.step, slots, output, self._results, prompt)
        self._in_flight.append(handle)
        return handle

    @torch.inference_mode()
    def capture_graphs(self, sizes: list[int], shapes: list[StepShape]) -> None:
        """Captures decode steps of `sizes` rows and steps with chunks of `shapes`, both ascending.

        Afterwards steps that fit one of these are replayed, padded to it.
        """

        def decode_inputs(size: int) -> None:
            batch = decode_batch(-1, [], size, True, self._parameters)
            none = batch.slots
            values = decode_values(batch, none, none, none, none, NO_WRITES)
            self._staging.pack(values, decode_lengths(size, 0))

        def decode(size: int) -> Tensor:
            return self._forward_decodes(self._staging.views(decode_lengths(size, 0)), self._max_model_len)

        def draw(views: dict[str, Tensor], slots: str, hidden: Tensor, features: int) -> SampleOutput:
            output = sample(self.model.logits(hidden), row_tensors(views, features), views["token_index"])
            self._last_token.index_copy_(0, views[slots], output.ids)
            return output

        def draw_decodes(size: int, hidden: Tensor, features: int) -> SampleOutput:
            return draw(self._staging.views(decode_lengths(size, 0)), "slots", hidden, features)

        def mixed_inputs(shape: StepShape) -> None:
            self._staging.pack(empty_step(shape, self._parameters), mixed_lengths(shape))

        def mixed(shape: StepShape) -> Tensor:
            views, longest = self._staging.views(mixed_lengths(shape)), self._max_model_len
            return self._forward_mixed(views, shape.decodes, min(shape.tokens, longest), longest)

        def draw_mixed(shape: StepShape, hidden: Tensor, features: int) -> SampleOutput:
            return draw(self._staging.views(mixed_lengths(shape)), "sampled_slots", hidden, features)

        self._mixed_graphs = StepGraphs(shapes, mixed, draw_mixed, mixed_inputs)
        self._decode_graphs = StepGraphs(
            sizes, decode, draw_decodes, decode_inputs, beside=self._mixed_graphs
        )
        self._batch = None  # a batch knows its captured size

    def _table_writes(self, plan: StepPlan) -> list[Array]:
        """Writes the plan's blocks into the host's tables; returns what the step writes into the device's."""
        index = self._table.write_blocks(plan)
        # Room left over among the writes goes to the padding rows' slot.
        spare = self._table.max_slots * self._table.tables.shape[1]
        return table_writes(index, plan.table_blocks, spare, self._table.tables.size)

    def _run_decodes(self, plan_slots: list[int], writes: list[Array]) -> tuple[Array, SampleOutput | None]:
        batch = self._decode_batch(plan_slots)
        slots, rows, size = batch.slots, len(batch.slots), batch.size
        if not rows:
            return slots, None
        placed = self._table.place_decodes(slots)
        values = decode_values(batch, *placed, self._parameters.token_index[slots], writes)
        views = self._staging.pack(values, decode_lengths(size, len(writes[0])), batch.version)
        self._write_tables(views)
        if batch.is_captured and self._decode_graphs is not None:
            return slots, self._replay(self._decode_graphs, size, views, "slots", slots)
        hidden = self._forward_decodes(views, int(placed[-1].max()))
        features = self._parameters.take_features(slots)
        return slots, self._sample(hidden, views, views["slots"], slots, features)

    def _run_mixed(
        self, plan: StepPlan, writes: list[Array]
    ) -> tuple[Array, SampleOutput | None, PromptScoreTensors | None]:
        num_decodes = len(plan.decode_slots)
        rows = self._table.place_mixed(plan.decode_slots, plan.prefills)
        rope_rows = self._rope.place(rows.positions, num_decodes, plan.prefills)
        shape = None if plan.has_scored else self._mixed_shape(plan)
        values = mixed_values(plan, rows, rope_rows, self._parameters, writes, shape)
        views = self._staging.pack(values, tuple(value.size for value in values))
        self._write_tables(views)
        slots = rows.slots[rows.sampled]
        if shape is not None and self._mixed_graphs is not None:
            return slots, self._replay(self._mixed_graphs, shape, views, "sampled_slots", slots), None
        longest_chunk, longest = int(rows.query_lens.max()), int(rows.seq_lens.max())
        hidden = self._forward_mixed(views, num_decodes, longest_chunk, longest, every_token=plan.has_scored)
        prompt = None
        if plan.has_scored:
            prompt = score_prompts(self.model, hidden, plan)
            hidden = hidden.index_select(0, views["last_token_rows"])
        if not len(slots):
            return slots, None, prompt
        features = self._parameters.take_features(slots)
        return slots, self._sample(hidden, views, views["sampled_slots"], slots, features), prompt

    def _replay(
        self, graphs: StepGraphs[Size], size: Size, views: dict[str, Tensor], field: str, slots: Array
    ) -> SampleOutput | None:
        """Replays a captured step, in which the first of the padded rows are `slots`, those that sample.

        field: where the views have these slots. What is drawn may be of the padding too, after them.
        """
        count = len(slots)
        hidden = graphs.forward(size)
        if not count:
            return None
        features = self._parameters.take_features(slots)
        output = graphs.finish(size, features)
        if output is not None:
            return output
        views = {name: view[:count] for name, view in views.items()}
        return self._sample(hidden[:count], views, views[field], slots, features)

    def _mixed_shape(self, plan: StepPlan) -> StepShape | None:
        """The captured shape that this step with chunks is padded to, if there is one."""
        if self._mixed_graphs is None:
            return None
        return fit_shape(
            self._mixed_graphs.sizes, plan.num_tokens, len(plan.decode_slots), len(plan.prefills)
        )

    def _forward_mixed(
        self,
        views: dict[str, Tensor],
        num_decodes: int,
        max_query_len: int,
        max_seq_len: int,
        every_token: bool = False,
    ) -> Tensor:
        """Decode rows, and chunks after them, to the hidden states [R, H] of those that sample, or [T, H] of all tokens."""
        meta = AttentionMeta(
            block_tables=self._tables.index_select(0, views["slots"]),
            seq_lens=views["seq_lens"],
            query_start=views["query_start"],
            num_decodes=num_decodes,
            max_query_len=max_query_len,
            max_seq_len=max_seq_len,
            workspace=self._workspace,
        )
        ids, last_tokens = views["ids"], views["last_token_rows"]
        sampled = None
        if not every_token and few_sample(len(ids), len(last_tokens)):
            rows = self._decode_meta(views["sampled_slots"], views["sampled_lens"], max_seq_len)
            sampled = SampledRows(last_tokens, rows)
        # ~slot stands for what was last drawn there, which need not have reached the host.
        drawn = self._last_token.index_select(0, (~ids).clamp_(min=0))
        hidden = self._forward(torch.where(ids < 0, drawn, ids), views, meta, sampled)
        return hidden if every_token or sampled is not None else hidden.index_select(0, last_tokens)

    def _forward_decodes(self, views: dict[str, Tensor], max_seq_len: int) -> Tensor:
        meta = self._decode_meta(views["slots"], views["seq_lens"], max_seq_len)
        return self._forward(self._last_token.index_select(0, views["slots"]), views, meta)

    def _decode_meta(self, slots: Tensor, seq_lens: Tensor, max_seq_len: int) -> AttentionMeta:
        """Rows of one query each: the last of seq_lens [R] tokens of the sequence in a slot."""
        size = len(slots)
        return AttentionMeta(
            block_tables=self._tables.index_select(0, slots),
            seq_lens=seq_lens,
            query_start=self._decode_starts[: size + 1],
            num_decodes=size,
            max_query_len=1,
            max_seq_len=max_seq_len,
            workspace=self._workspace,
        )

    def _forward(
        self,
        ids: Tensor,
        views: dict[str, Tensor],
        meta: AttentionMeta,
        sampled: SampledRows | None = None,
    ) -> Tensor:
        step = StepMeta(views["slot_mapping"], self._rope.cos_sin, meta, sampled)
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
            rows, graphs = len(plan_slots), self._decode_graphs
            size = None if graphs is None else fit_size(graphs.sizes, rows)
            self._num_batches += 1
            # A copy: the plan's list stays the caller's.
            batch = self._batch = decode_batch(
                self._num_batches, [*plan_slots], size or rows, size is not None, self._parameters
            )
        return batch

    def _write_tables(self, views: dict[str, Tensor]) -> None:
        # On cpu the device's tables are the host's, which are written already.
        if not self._is_cpu and views["table_index"].numel():
            self._tables.view(-1).index_copy_(0, views["table_index"], views["table_blocks"])
