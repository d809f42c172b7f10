"""Scores do not depend on how many rows of logits are in memory at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from services.worker.runner import prompt_scores
from services.worker.runner.plan import PrefillChunk, StepPlan, decode_plan, encode_plan

VOCAB_SIZE = 50


def plan_of_two_chunks() -> StepPlan:
    def chunk(slot: int, length: int, scored: range, num_top: int) -> PrefillChunk:
        ids = np.arange(slot, slot + length + 1, dtype=np.int32)
        following = ids[scored.start + 1 : scored.stop + 1]
        return PrefillChunk(slot, 0, ids[:-1], True, following, scored.start, num_top)

    plain = PrefillChunk(3, 0, np.zeros(4, np.int32), samples=False)
    chunks = [chunk(5, 6, range(2, 6), 1), plain, chunk(9, 7, range(7), 3)]
    return StepPlan(0, decode_slots=[0, 1], prefills=chunks)


@pytest.mark.parametrize("num_rows", [1, 4, 11, 100])
def test_slices_give_what_the_whole_would(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_scores, "SLICE_LOGITS", num_rows * VOCAB_SIZE)
    plan = decode_plan(encode_plan(plan_of_two_chunks()))
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2 + 6 + 4 + 7, 8, generator=generator, dtype=torch.bfloat16)
    head = torch.randn(8, VOCAB_SIZE, generator=generator, dtype=torch.bfloat16)
    most = 0

    def logits(rows: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, len(rows))
        return rows @ head

    model = SimpleNamespace(config=SimpleNamespace(vocab_size=VOCAB_SIZE), logits=logits)
    found = prompt_scores.score_prompts(model, hidden, plan)
    assert most <= num_rows
    rows = torch.tensor([4, 5, 6, 7, *range(12, 19)])
    ids = torch.tensor([8, 9, 10, 11, *range(10, 17)])
    expected = (hidden[rows] @ head).float().log_softmax(1)
    chosen = expected.gather(1, ids[:, None])
    torch.testing.assert_close(found.logprobs, chosen[:, 0])
    torch.testing.assert_close(found.ranks, (expected > chosen).sum(1).int() + 1)
    torch.testing.assert_close(found.top_logprobs, expected.topk(3).values)
    assert found.logprobs.dtype == found.top_logprobs.dtype == torch.float32
