import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.common.blockhash import chain_root, hash_blocks
from services.router.prefix_index import PrefixIndex


def chain(*ids):
    return hash_blocks(chain_root(), ids, 1)


def test_each_worker_matches_its_own_leading_blocks():
    index = PrefixIndex()
    index.store("a", chain(1, 2, 3, 4))
    index.store("b", chain(1, 2))
    index.store("c", chain(9, 9))
    assert index.match(chain(1, 2, 3, 7)) == {"a": 3, "b": 2}
    assert index.match(chain(1, 2, 3, 4)) == {"a": 4, "b": 2}
    assert index.match(chain(7)) == {}
    assert index.match([]) == {}


def test_a_match_ends_at_the_first_block_that_is_missing():
    index = PrefixIndex()
    blocks = chain(1, 2, 3)
    index.store("a", blocks)
    index.remove("a", blocks[1:2])
    assert index.match(blocks) == {"a": 1}


def test_a_cleared_worker_matches_nothing_and_others_are_untouched():
    index = PrefixIndex()
    blocks = chain(1, 2, 3)
    index.store("a", blocks)
    index.store("b", blocks[:1])
    index.clear("a")
    assert index.match(blocks) == {"b": 1}
    index.store("a", blocks[:2])
    assert index.match(blocks) == {"a": 2, "b": 1}


def test_a_sweep_frees_what_cleared_workers_held():
    index = PrefixIndex()
    index.store("gone", chain(*range(100)))
    index.store("live", chain(0, 1))
    index.clear("gone")
    assert len(index) == 100
    slices = sum(1 for _ in index.sweep(batch=10))
    assert (slices, len(index), index.needs_sweep) == (10, 2, False)


def test_a_full_index_keeps_what_it_has():
    index = PrefixIndex(max_blocks=3)
    blocks = chain(1, 2, 3, 4)
    index.store("a", blocks)
    assert (len(index), index.num_ignored) == (3, 1)
    index.store("b", blocks)
    assert index.match(blocks) == {"a": 3, "b": 3}


def test_bits_are_used_again_when_workers_come_and_go():
    index = PrefixIndex()
    for i in range(1000):
        index.store(f"w{i}", chain(1))
        index.clear(f"w{i}")
        for _ in index.sweep():
            pass
    assert index._bit("last") == 1


CHAIN = chain(*range(6))


class IndexMachine(RuleBasedStateMachine):
    """Any mix of changes, against one plain set of blocks per worker."""

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex()
        self.model = {}
        self.sweep = iter(())

    workers = st.sampled_from(["a", "b", "c", "d"])
    blocks = st.lists(st.sampled_from(CHAIN), max_size=6)

    @rule(worker=workers, blocks=blocks)
    def store(self, worker, blocks):
        self.index.store(worker, blocks)
        self.model.setdefault(worker, set()).update(blocks)

    @rule(worker=workers, blocks=blocks)
    def remove(self, worker, blocks):
        self.index.remove(worker, blocks)
        self.model.setdefault(worker, set()).difference_update(blocks)

    @rule(worker=workers)
    def clear(self, worker):
        self.index.clear(worker)
        self.model.pop(worker, None)

    @rule()
    def sweep_a_little(self):
        if next(self.sweep, self) is self:
            self.sweep = self.index.sweep(batch=2)

    @rule(length=st.integers(0, 6))
    def match(self, length):
        expected = {}
        for worker, held in self.model.items():
            depth = 0
            while depth < length and CHAIN[depth] in held:
                depth += 1
            if depth:
                expected[worker] = depth
        assert self.index.match(CHAIN[:length]) == expected

    @invariant()
    def is_consistent(self):
        self.index.check()


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_a_hundred_workers_agree_with_sets():
    rng, index, model = random.Random(5), PrefixIndex(), {}
    blocks = chain(*range(64))
    for i in range(100):
        model[f"w{i}"] = rng.randrange(64)
        index.store(f"w{i}", blocks[: model[f"w{i}"]])
    assert index.match(blocks) == {worker: depth for worker, depth in model.items() if depth}
