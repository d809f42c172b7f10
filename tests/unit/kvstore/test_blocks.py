from hypothesis import given, settings
from hypothesis import strategies as st

from services.kvstore.blocks import BlockTable, WorkerBlocks

HASHES = [bytes([i]) * 16 for i in range(8)]
changes = st.lists(
    st.tuples(st.sampled_from(["store", "remove", "take"]), st.lists(st.sampled_from(HASHES))), max_size=30
)


@given(changes)
def test_changes_taken_bring_a_copy_up_to_date(steps):
    blocks, copy = WorkerBlocks(needs_rewrite=False), set()
    for what, hashes in [*steps, ("take", [])]:
        if what == "store":
            blocks.store(hashes)
        elif what == "remove":
            blocks.remove(hashes)
        else:
            added, removed = blocks.take_changes()
            assert not added & removed
            copy = copy - removed | added
    assert copy == blocks.held


def test_more_changes_than_blocks_become_a_rewrite():
    blocks = WorkerBlocks(needs_rewrite=False)
    for i in range(5000):
        name = i.to_bytes(16, "little")
        blocks.store([name])
        blocks.remove([name])
        assert len(blocks.added) + len(blocks.removed) <= 1025
    assert blocks.needs_rewrite


@settings(deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from("abcde"), st.integers(0, 25), max_size=5),
    page_hashes=st.integers(1, 30),
)
def test_pages_hold_every_block_of_every_worker_once(sizes, page_hashes):
    table = BlockTable()
    for worker, size in sizes.items():
        table.store(worker, [worker.encode() * 15 + bytes([i]) for i in range(size)])
    positions = {worker: (7, i) for i, worker in enumerate(sizes)}
    found, number, num_pages = {}, 0, 1
    while number < num_pages:
        page = table.page(number, positions, page_hashes)
        num_pages = page.num_pages
        assert sum(len(part.hashes) for part in page.workers) <= 16 * page_hashes
        for part in page.workers:
            assert (part.epoch, part.seq) == positions[part.worker_id]
            found.setdefault(part.worker_id, []).append(part.hashes)
        number += 1
    for worker, size in sizes.items():
        packed = b"".join(found.get(worker, []))
        held = {packed[i : i + 16] for i in range(0, len(packed), 16)}
        assert len(packed) == 16 * size
        assert held == table.workers[worker].held


def test_a_page_beyond_the_end_is_empty():
    assert BlockTable().page(3, {}).workers == []
