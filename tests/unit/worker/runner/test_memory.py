from services.worker.runner.config import CPU_POOL_BYTES, CPU_POOL_TOKENS
from services.worker.runner.memory import PoolLimits, blocks_for, cpu_blocks


def limits(bytes_per_block: int, tokens: int | None) -> PoolLimits:
    return PoolLimits(16, bytes_per_block, tokens, mem_fraction=0.9, slot_state_bytes=0)


def test_blocks_hold_the_tokens_beside_the_scratch_block():
    assert [blocks_for(tokens, 16) for tokens in (0, 1, 16, 17)] == [1, 2, 2, 3]


def test_the_cpu_pool_is_bounded_by_tokens_for_small_models_and_by_bytes_for_large_ones():
    assert cpu_blocks(limits(1024, None)) == CPU_POOL_TOKENS // 16 + 1
    assert cpu_blocks(limits(64 << 20, None)) == CPU_POOL_BYTES // (64 << 20)


def test_a_configured_pool_is_taken_as_it_is():
    assert cpu_blocks(limits(64 << 20, 3200)) == 201
