import pytest
import torch
from helpers import attention_answer, attention_case, relative_error

from kernels.attention import paged_attention

BATCHES = {
    "decodes of many lengths": ([1, 4, 5, 37], []),
    "prefills with and without a prefix": ([], [(5, 5), (3, 11), (1, 9), (16, 16)]),
    "decodes and prefill chunks together": ([9, 2], [(7, 20), (4, 4)]),
}


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (8, 1)])
def test_attention_matches_a_float64_answer(batch: str, window: int | None, heads: tuple[int, int]) -> None:
    case = attention_case(*BATCHES[batch], heads=heads)
    out = paged_attention(case.q, case.k_cache, case.v_cache, case.meta, case.scale, window)
    assert relative_error(out, attention_answer(case, window)) < 1e-5


def test_padding_rows_give_finite_output_and_change_no_other_row() -> None:
    case = attention_case([9, 0, 2, 0], [])
    out = paged_attention(case.q, case.k_cache, case.v_cache, case.meta, case.scale)
    assert out.isfinite().all()
    rows = [0, 2]
    assert relative_error(out[rows], attention_answer(case)[rows]) < 1e-5


def test_bfloat16_error_is_that_of_the_inputs() -> None:
    case = attention_case([33, 7], [(8, 24)], head_dim=64, dtype=torch.bfloat16)
    out = paged_attention(case.q, case.k_cache, case.v_cache, case.meta, case.scale)
    assert relative_error(out, attention_answer(case)) < 1e-2
