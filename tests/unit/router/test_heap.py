import random

from services.router.heap import LazyHeap


def test_items_leave_by_their_latest_key():
    heap = LazyHeap()
    for i, name in enumerate("abc"):
        heap.set(name, (i,))
    heap.set("a", (9,))
    heap.discard("b")
    heap.discard("never there")
    assert ("b" in heap, len(heap), heap.key("a")) == (False, 2, (9,))
    assert [heap.pop(), heap.pop(), heap.pop()] == ["c", "a", None]


def test_removed_items_do_not_pile_up():
    heap, rng = LazyHeap(), random.Random(0)
    heap.set("stays", (-1,))
    for i in range(10_000):
        heap.set(i, (rng.random(),))
        heap.discard(i)
    assert len(heap._heap) < 100
    assert heap.pop() == "stays"
