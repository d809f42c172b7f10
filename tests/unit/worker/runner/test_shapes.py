"""Which sizes are captured, and what is padded to them."""

import pytest

from services.worker.runner.shapes import (
    MAX_CHUNKS,
    StepShape,
    decode_sizes,
    few_sample,
    fit_shape,
    fit_size,
    least_mixed_step,
    mixed_shapes,
)
from services.worker.scheduler.admission import Limits

SHAPES = mixed_shapes(max_step_tokens=8192, max_model_len=8192, max_decodes=256)


def test_sizes_are_dense_up_to_the_split_and_stepped_above():
    assert decode_sizes(20, 4, 8, 256) == [1, 2, 3, 4, 12, 20]
    assert decode_sizes(256, 32, 16, 256) == [*range(1, 33), *range(48, 257, 16)]
    assert decode_sizes(256, 32, 16, 10) == [*range(1, 11)]
    assert decode_sizes(50, 32, 16, 256) == [*range(1, 33), 48, 50]
    assert decode_sizes(0, 32, 16, 256) == []


def test_the_smallest_size_that_holds_the_rows():
    assert [fit_size([2, 4, 8], rows) for rows in (1, 2, 3, 8, 9)] == [2, 2, 4, 8, None]


@pytest.mark.parametrize("least", [512, 1024, 2048])
@pytest.mark.parametrize("decodes", [1, 8, 9, 32, 33, 100, 129, 248, 256])
def test_full_steps_beside_decodes_are_captured_and_hardly_padded(decodes: int, least: int):
    limits, shapes = Limits(256, 8192, 8192, least_mixed_tokens=least), mixed_shapes(8192, 8192, 256, least)
    tokens = decodes + limits.prefill_budget(decodes, num_sequences=256)
    shape = fit_shape(shapes, tokens, decodes, 3)
    assert shape is not None
    assert shape.tokens == tokens
    assert decodes <= shape.decodes < max(2 * decodes, 9)


def test_small_models_have_more_tokens_share_a_step():
    millions_per_layer = {
        "Qwen3-0.6B": 15.7,
        "Qwen3-1.7B": 50.3,
        "Llama-3-8B": 218.1,
        "Qwen2-32B, tp 4": 121.9,
    }
    least = {name: least_mixed_step(1e6 * weights) for name, weights in millions_per_layer.items()}
    assert least == {"Qwen3-0.6B": 2048, "Qwen3-1.7B": 1024, "Llama-3-8B": 512, "Qwen2-32B, tp 4": 512}
    assert least_mixed_step(1.0) == 2048


def test_no_step_is_padded_by_256_tokens_or_more():
    for decodes in (0, 1, 8, 30, 200):
        for tokens in range(decodes + 1, 2300):
            shape = fit_shape(SHAPES, tokens, decodes, 1)
            assert shape is None or (0 <= shape.tokens - tokens < 256 and shape.decodes >= decodes)


def test_a_lone_chunk_has_shapes_of_its_own():
    assert fit_shape(SHAPES, 20, 0, 1) == StepShape(32, 0, 1)
    assert fit_shape(SHAPES, 20, 0, 2) == StepShape(128, 8, MAX_CHUNKS)
    assert fit_shape(SHAPES, 600, 0, 1) == StepShape(640, 64, MAX_CHUNKS)


def test_the_last_layer_is_cut_to_the_rows_that_sample_where_that_halves_it():
    assert few_sample(2, 1)
    assert not few_sample(1, 1)
    cut = {shape for shape in SHAPES if few_sample(shape.tokens, shape.rows)}
    assert {shape for shape in SHAPES if not shape.decodes} < cut
    assert {
        StepShape(128, 8, MAX_CHUNKS),
        StepShape(512, 32, MAX_CHUNKS),
        StepShape(2048, 256, MAX_CHUNKS),
    } < cut
    assert StepShape(128, 64, MAX_CHUNKS) not in cut


def test_what_no_shape_holds_is_not_padded():
    assert fit_shape(SHAPES, 200, 20, MAX_CHUNKS + 1) is None
    assert fit_shape(SHAPES, 2049, 256, 1) is None
    assert fit_shape(SHAPES, 400, 257, 1) is None
    assert fit_shape([], 1, 0, 1) is None


@pytest.mark.parametrize(
    ("tokens", "length", "decodes"), [(16, 8, 4), (300, 8192, 20), (8192, 100, 1), (64, 64, 0)]
)
def test_no_shape_is_larger_than_a_step_may_be(tokens: int, length: int, decodes: int):
    shapes = mixed_shapes(tokens, length, decodes)
    assert shapes == sorted(set(shapes))
    assert all(shape.tokens <= tokens and shape.decodes <= decodes < tokens for shape in shapes)
    assert all(shape.tokens <= length for shape in shapes if not shape.decodes)
