"""What the attention benchmark compares our kernels with gives the right answer."""

import pytest
from helpers import attention_answer, attention_case, relative_error
from torch.nn.attention import SDPBackend

pytest.importorskip("triton")
from bench.kernels import attention


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (5, 1)])
def test_the_librarys_attention_answers_the_same_question(heads: tuple[int, int]) -> None:
    case = attention_case([], [(37, 37)] * 3, heads=heads, head_dim=16, block_size=16)
    inputs = attention.Inputs(case.q, case.k_cache, case.v_cache, case.meta, case.scale)
    inputs.laid_out = attention.side_by_side(inputs)
    out = attention.contiguous(SDPBackend.MATH, inputs)
    assert out.shape == case.q.shape
    assert relative_error(out, attention_answer(case)) < 1e-5


def test_prefills_with_a_library_variant_have_inputs_for_it() -> None:
    for group in attention.groups():
        library = any(variant.name.startswith("contiguous") for variant in group.variants)
        assert library == (group.make.func is attention.make_laid_out)


def test_the_variants_of_decode_differ_from_one_another() -> None:
    assert len(set(attention.DECODE_CONFIGS)) == len(attention.DECODE_CONFIGS)
    assert {config.stages for config in attention.DECODE_CONFIGS} >= {3, 5, 7}
