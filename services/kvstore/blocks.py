"""The blocks of every worker, and what of them Redis does not have yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from services.common.messages.events import KvSnapshot, KvSnapshots

PAGE_HASHES = 65_536  # of all workers together in one page of an answer: 1 MiB


@dataclass(slots=True)
class WorkerBlocks:
    """One worker's blocks. Changes since they were last taken are kept, or that all must be written anew."""

    held: set[bytes] = field(default_factory=set)
    added: set[bytes] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)
    needs_rewrite: bool = True

    def store(self, hashes: Iterable[bytes]) -> None:
        new = set(hashes) - self.held
        self.held |= new
        if not self.needs_rewrite:
            self.added |= new
            self.removed -= new
            self._bound()

    def remove(self, hashes: Iterable[bytes]) -> None:
        gone = self.held.intersection(hashes)
        self.held -= gone
        if not self.needs_rewrite:
            self.removed |= gone
            self.added -= gone
            self._bound()

    def rewrite(self) -> None:
        """Forgets the changes: all blocks are to be written."""
        self.needs_rewrite = True
        self.added, self.removed = set(), set()

    @property
    def has_changes(self) -> bool:
        return self.needs_rewrite or bool(self.added or self.removed)

    def take_changes(self) -> tuple[set[bytes], set[bytes]]:
        """(added, removed) since the last call."""
        changes = self.added, self.removed
        self.added, self.removed = set(), set()
        return changes

    def _bound(self) -> None:
        """More changes than blocks are better written as a whole."""
        if len(self.added) + len(self.removed) > len(self.held) + 1024:
            self.rewrite()


class BlockTable:
    """A ``BlockIndex`` (services/common/kv_feed.py) that can be listed."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerBlocks] = {}

    def store(self, worker_id: str, hashes: Iterable[bytes]) -> None:
        self.workers.setdefault(worker_id, WorkerBlocks()).store(hashes)

    def remove(self, worker_id: str, hashes: Iterable[bytes]) -> None:
        self.workers.setdefault(worker_id, WorkerBlocks()).remove(hashes)

    def clear(self, worker_id: str) -> None:
        if worker_id in self.workers:
            self.workers[worker_id] = WorkerBlocks()

    def forget(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)

    @property
    def num_blocks(self) -> int:
        return sum(len(worker.held) for worker in self.workers.values())

    def page(
        self, number: int, positions: dict[str, tuple[int, int]], page_hashes: int = PAGE_HASHES
    ) -> KvSnapshots:
        """One page of everything. ``positions``: (epoch, seq) of the workers to list."""
        slices = [
            (worker_id, part)
            for worker_id, blocks in sorted(self.workers.items())
            if worker_id in positions
            for part in _slices(blocks.held, page_hashes)
        ]
        pages = list(_fill_pages(slices, page_hashes))
        found = pages[number] if number < len(pages) else []
        return KvSnapshots(
            number,
            max(1, len(pages)),
            [
                KvSnapshot(worker_id, *positions[worker_id], number, max(1, len(pages)), b"".join(part))
                for worker_id, part in found
            ],
        )


def _slices(held: set[bytes], size: int) -> Iterator[list[bytes]]:
    names = list(held)
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _fill_pages(
    slices: list[tuple[str, list[bytes]]], page_hashes: int
) -> Iterator[list[tuple[str, list[bytes]]]]:
    """Groups slices, none longer than a page, into pages."""
    page: list[tuple[str, list[bytes]]] = []
    room = page_hashes
    for worker_id, part in slices:
        if page and len(part) > room:
            yield page
            page, room = [], page_hashes
        page.append((worker_id, part))
        room -= len(part)
    if page:
        yield page
