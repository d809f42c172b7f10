import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from services.common.blockhash import (
    HASH_BYTES,
    BlockChain,
    chain_root,
    hash_block,
    hash_blocks,
    split_hashes,
)

ids_lists = st.lists(st.integers(0, 200_000), max_size=60)


@given(ids_lists, ids_lists, st.integers(1, 8))
def test_equal_names_mean_equal_prefixes(ids, other, block_size):
    names, others = (hash_blocks(chain_root(), each, block_size) for each in (ids, other))
    for i, (name, also) in enumerate(zip(names, others, strict=False)):
        end = (i + 1) * block_size
        assert (name == also) == (ids[:end] == other[:end])


@given(ids_lists, st.integers(1, 8), st.lists(st.integers(0, 70), max_size=4))
def test_a_chain_reached_in_parts_has_the_names_of_its_blocks_one_by_one(ids, block_size, stops):
    chain = BlockChain(chain_root(), ids, block_size)
    for stop in stops:
        list(itertools.islice(chain, stop))
    parent, names = chain_root(), []
    for end in range(block_size, len(ids) + 1, block_size):
        parent = hash_block(parent, ids[end - block_size : end])
        names.append(parent)
    assert list(chain) == list(chain) == names


@given(ids_lists, st.integers(1, 8))
def test_only_full_blocks_have_names(ids, block_size):
    names = hash_blocks(chain_root(), ids, block_size)
    assert len(names) == len(ids) // block_size
    assert hash_blocks(chain_root(), ids + [7] * 40, block_size)[: len(names)] == names


def test_adapter_salt_and_images_each_make_a_chain_of_their_own():
    roots = [
        chain_root(),
        chain_root(adapter="a"),
        chain_root(cache_salt="a"),
        chain_root(image_hashes=[b"a"]),
        chain_root(adapter="a", cache_salt="a"),
        chain_root(adapter="aa"),
        chain_root(image_hashes=[b"a", b"a"]),
    ]
    assert len(set(roots)) == len(roots)
    assert {len(root) for root in roots} == {HASH_BYTES}


def test_names_are_the_same_on_every_machine():
    assert hash_block(chain_root(), [1, 2, 3, -1]).hex() == "7f2e463d13e53080b3d965378f97061e"


@given(st.lists(st.binary(min_size=16, max_size=16)), st.binary(max_size=15))
def test_hashes_are_split_as_they_were_joined(hashes, torn):
    assert split_hashes(b"".join(hashes) + torn) == hashes


def test_many_blocks_have_different_names():
    rng = random.Random(0)
    ids = [rng.randrange(1000) for _ in range(20_000)]
    assert len(set(hash_blocks(chain_root(), ids, 4))) == 5000
