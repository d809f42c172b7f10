import pytest

from services.worker.errors import DeviceMemoryError
from services.worker.runner.config import CPU_POOL_BYTES, CPU_POOL_TOKENS
from services.worker.runner.memory import (
    PoolLimits,
    PoolSize,
    blocks_for,
    check_headroom,
    cpu_blocks,
    largest_step_bytes,
)


def limits(bytes_per_block: int, tokens: int | None) -> PoolLimits:
    return PoolLimits(16, bytes_per_block, tokens, mem_fraction=0.9, slot_state_bytes=0)


def test_blocks_hold_the_tokens_beside_the_scratch_block():
    assert [blocks_for(tokens, 16) for tokens in (0, 1, 16, 17)] == [1, 2, 2, 3]


def test_the_cpu_pool_is_bounded_by_tokens_for_small_models_and_by_bytes_for_large_ones():
    assert cpu_blocks(limits(1024, None)) == CPU_POOL_TOKENS // 16 + 1
    assert cpu_blocks(limits(64 << 20, None)) == CPU_POOL_BYTES // (64 << 20)


def test_a_configured_pool_is_taken_as_it_is():
    assert cpu_blocks(limits(64 << 20, 3200)) == 201


def test_graphs_may_take_more_than_was_reserved_as_long_as_a_step_fits():
    check_headroom(3 << 30, 2 << 30, 2 << 30)


def test_graphs_that_leave_too_little_for_a_step_are_refused_with_what_to_change():
    with pytest.raises(
        DeviceMemoryError, match=r"took 3072 MiB.*left 2047 MiB.*takes 2048 MiB: lower --mem_fraction"
    ):
        check_headroom(3 << 30, (2 << 30) - 1, 2 << 30)


def test_a_step_takes_what_it_took_when_it_was_measured_beside_weights_and_the_pool():
    weights, shared, step, slots = 800, 30, 100, 7
    pool = PoolSize(blocks=50, peak_bytes=weights + shared + step)
    measured = PoolLimits(16, 4, None, mem_fraction=0.9, slot_state_bytes=slots)
    assert largest_step_bytes(measured, pool, weights + shared + 50 * 4) == step + slots
