from __future__ import annotations

import pytest

from services.common.blockhash import chain_root, hash_blocks
from services.worker.cache import BlockPool, CacheChanges, HashChain, OutOfBlocks, PrefixCache


def test_block_zero_is_never_handed_out() -> None:
    pool = BlockPool(5)
    assert sorted(pool.allocate(4)) == [1, 2, 3, 4]
    with pytest.raises(OutOfBlocks):
        pool.allocate(1)
    pool.check()


def test_a_failed_allocation_changes_nothing() -> None:
    pool = BlockPool(4)
    pool.allocate(1)
    with pytest.raises(OutOfBlocks):
        pool.allocate(3)
    assert pool.num_free == 2
    pool.check()


def test_named_blocks_are_evicted_least_recently_used_first_and_tails_before_heads() -> None:
    evicted: list[bytes] = []
    pool = BlockPool(5, evicted.append)
    for prefix in (b"a", b"b"):
        blocks = pool.allocate(2)
        for i, block in enumerate(blocks):
            pool.name(block, prefix + b"%d" % i)
        pool.release(blocks)
    first = pool.find(b"a0")
    assert first is not None
    pool.retain([first])  # used again: now the youngest
    pool.release([first])
    pool.allocate(4)
    assert evicted == [b"a1", b"b1", b"b0", b"a0"]
    pool.check()


def test_a_shared_block_is_free_only_after_its_last_user() -> None:
    pool = BlockPool(3)
    (block,) = pool.allocate(1)
    pool.retain([block])
    pool.release([block])
    assert pool.num_free == 1
    pool.release([block])
    assert pool.num_free == 2


def test_of_two_blocks_with_one_name_the_first_is_found() -> None:
    pool = BlockPool(3)
    one, two = pool.allocate(2)
    assert pool.name(one, b"x")
    assert not pool.name(two, b"x")
    assert pool.find(b"x") == one
    pool.release([one, two])
    pool.check()


def test_chain_names_blocks_as_other_services_do() -> None:
    ids, root = list(range(23)), chain_root(cache_salt="tenant")
    chain = HashChain(root, 4)
    for known in (3, 4, 9, 23):
        chain.extend(ids, known)
    assert chain.names == hash_blocks(root, ids, 4)


def test_one_id_of_a_sequence_is_always_computed() -> None:
    cache = PrefixCache(10, 4)
    assert [cache.num_matchable(n) for n in (1, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]


def test_changes_are_net() -> None:
    changes = CacheChanges()
    changes.on_stored(b"a" * 16)
    changes.on_removed(b"a" * 16)
    changes.on_removed(b"b" * 16)
    changes.on_stored(b"b" * 16)
    changes.on_stored(b"c" * 16)
    assert changes.take() == (b"c" * 16, b"")
    assert changes.take() == (b"", b"")


def test_events_rebuild_what_the_cache_holds() -> None:
    cache = PrefixCache(4, 2)
    seen: set[bytes] = set()
    for turn in range(6):
        chain = HashChain(chain_root(cache_salt=str(turn % 4)), 2)
        chain.extend([1, 2, 3, 4], 4)
        found = cache.match(chain.names)
        cache.pool.retain(found)
        blocks = found + cache.pool.allocate(2 - len(found))
        for block, name in list(zip(blocks, chain.names, strict=True))[len(found) :]:
            cache.publish(block, name)
        cache.pool.release(blocks)
        stored, removed = cache.changes.take()
        seen -= {removed[i : i + 16] for i in range(0, len(removed), 16)}
        seen |= {stored[i : i + 16] for i in range(0, len(stored), 16)}
        assert seen == set(cache.pool.names())
