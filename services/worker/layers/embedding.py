"""Token embedding and language model head, split over ranks along the vocabulary."""

from __future__ import annotations

from torch import Tensor

from kernels.embedding import embedding
from kernels.linear import linear
from services.worker.layers.build import Build


class VocabParallelEmbedding:
    """Each rank holds ceil(V / ranks) rows; rows past the vocabulary are zero."""

    def __init__(self, build: Build, name: str, vocab_size: int, hidden_size: int) -> None:
        self._tp = build.tp
        self.vocab_size = vocab_size
        rows = -(-vocab_size // build.tp.size)
        self.start = build.tp.rank * rows
        self.weight = build.empty(rows, hidden_size)
        held = min(max(vocab_size - self.start, 0), rows)
        self.weight[held:].zero_()
        if held:
            out = self.weight.narrow(0, 0, held)
            build.source.read(f"{name}.weight", (vocab_size, hidden_size), out, 0, self.start)

    def __call__(self, ids: Tensor) -> Tensor:
        """ids [T] to [T, H]."""
        return self._tp.all_reduce(embedding(ids, self.weight, self.start))

    def logits(self, hidden: Tensor) -> Tensor:
        """As the head: hidden [R, H] to [R, V], whole on every rank."""
        gathered = self._tp.all_gather(linear(hidden, self.weight))
        return gathered[:, : self.vocab_size] if gathered.shape[1] > self.vocab_size else gathered
