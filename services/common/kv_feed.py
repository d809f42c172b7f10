"""Follows the workers' prefix caches: events in order, snapshots where something was missed.

Routers and kvstore each keep an index of which worker holds which blocks. Events may be lost, doubled or come
before anything else is known of their worker; ``KvFeeds`` hands an index exactly the changes that make it
equal to the worker's cache again, and asks that worker for a snapshot whenever events alone cannot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from services.common.blockhash import split_hashes
from services.common.bus import Bus, BusError
from services.common.errors import DecodeError
from services.common.messages.codec import decode, encode
from services.common.messages.events import KvEvents, KvSnapshot, KvSnapshotRequest
from services.common.subjects import Subjects

log = logging.getLogger(__name__)

MAX_BUFFERED_EVENTS = 10_000  # of one worker while its snapshot is fetched
# A worker's cache may change between two pages. After so many tries the pages are taken as they are: what is
# then missing costs cache hits, never correctness.
CONSISTENT_TRIES = 3
STORE_BATCH = 20_000  # hashes stored before others get a turn


class BlockIndex(Protocol):
    """What follows. Called on the event loop only; must not block."""

    def store(self, worker_id: str, hashes: Iterable[bytes]) -> None: ...

    def remove(self, worker_id: str, hashes: Iterable[bytes]) -> None: ...

    def clear(self, worker_id: str) -> None: ...


@dataclass(slots=True)
class _Feed:
    epoch: int
    seq: int = 0  # last event applied
    is_synced: bool = False
    has_snapshot: bool = False  # the worker itself has told
    buffered: list[KvEvents] = field(default_factory=list)  # while it is not
    fetching: asyncio.Task[None] | None = None


class KvFeeds:
    """Owned by one service; ``stop`` ends its fetches."""

    def __init__(
        self, bus: Bus, subjects: Subjects, index: BlockIndex, *, timeout_s: float = 2.0, retry_s: float = 0.5
    ) -> None:
        self._bus, self._subjects, self._index = bus, subjects, index
        self._timeout_s, self._retry_s = timeout_s, retry_s
        self._feeds: dict[str, _Feed] = {}
        self.num_snapshots = 0  # fetched so far

    def on_worker(self, worker_id: str, epoch: int) -> None:
        """A live worker was heard of; follows it, from nothing when the epoch is new."""
        feed = self._feeds.get(worker_id)
        if feed is None or feed.epoch < epoch:
            self.on_gone(worker_id)
            self._feeds[worker_id] = feed = _Feed(epoch)
            self._fetch(worker_id, feed)

    def on_gone(self, worker_id: str) -> None:
        """A worker is dead: its entries leave the index."""
        feed = self._feeds.pop(worker_id, None)
        if feed is not None:
            if feed.fetching:
                feed.fetching.cancel()
            self._index.clear(worker_id)

    def on_events(self, events: KvEvents) -> None:
        feed = self._feeds.get(events.worker_id)
        if feed is not None and events.epoch > feed.epoch:
            self.on_worker(events.worker_id, events.epoch)
            feed = self._feeds[events.worker_id]
        if feed is None or events.epoch < feed.epoch:
            return
        if not feed.is_synced:
            if len(feed.buffered) < MAX_BUFFERED_EVENTS:
                feed.buffered.append(events)
        elif events.seq == feed.seq + 1:
            self._apply(feed, events)
        elif events.seq > feed.seq:
            feed.is_synced = False
            feed.buffered = [events]
            self._fetch(events.worker_id, feed)

    def is_synced(self, worker_id: str) -> bool:
        feed = self._feeds.get(worker_id)
        return feed is not None and feed.is_synced

    def position(self, worker_id: str) -> tuple[int, int]:
        """(epoch, seq) up to which the index is the worker's cache; seq is 0 while it is not known, both for nobody."""
        feed = self._feeds.get(worker_id)
        return (0, 0) if feed is None else (feed.epoch, feed.seq if feed.is_synced else 0)

    def warm(self, snapshot: KvSnapshot) -> None:
        """Takes what kvstore knows of a worker, unless the worker itself has told already."""
        feed = self._feeds.get(snapshot.worker_id)
        if feed is not None and not feed.has_snapshot and feed.epoch == snapshot.epoch:
            self._index.store(snapshot.worker_id, split_hashes(snapshot.hashes))

    async def stop(self) -> None:
        tasks = [feed.fetching for feed in self._feeds.values() if feed.fetching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _apply(self, feed: _Feed, events: KvEvents) -> None:
        if events.cleared:
            self._index.clear(events.worker_id)
        if events.removed:
            self._index.remove(events.worker_id, split_hashes(events.removed))
        if events.stored:
            self._index.store(events.worker_id, split_hashes(events.stored))
        feed.seq = events.seq

    def _fetch(self, worker_id: str, feed: _Feed) -> None:
        if feed.fetching is None or feed.fetching.done():
            feed.fetching = asyncio.create_task(self._fetch_until_synced(worker_id, feed))

    async def _fetch_until_synced(self, worker_id: str, feed: _Feed) -> None:
        tries = 0
        while not feed.is_synced:
            try:
                tries += 1
                pages = await self._fetch_pages(worker_id, feed.epoch, accept_torn=tries >= CONSISTENT_TRIES)
            except (BusError, DecodeError) as error:
                log.debug("no snapshot of %s: %s", worker_id, error.message)
                await asyncio.sleep(self._retry_s)
                continue
            if pages and not await self._take(worker_id, feed, pages):
                await asyncio.sleep(self._retry_s)

    async def _fetch_pages(self, worker_id: str, epoch: int, *, accept_torn: bool) -> list[KvSnapshot]:
        """All pages of one snapshot; none when the cache changed meanwhile. Raises BusError, DecodeError."""
        pages: list[KvSnapshot] = []
        while not pages or len(pages) < pages[0].num_pages:
            request = encode(KvSnapshotRequest(worker_id, len(pages)))
            answer = await self._bus.request(self._subjects.kv_snapshot(worker_id), request, self._timeout_s)
            page = decode(KvSnapshot, answer)
            if page.epoch != epoch:
                raise DecodeError(f"snapshot of epoch {page.epoch}, expected {epoch}")
            if pages and page.seq != pages[0].seq and not accept_torn:
                return []
            pages.append(page)
        return pages

    async def _take(self, worker_id: str, feed: _Feed, pages: list[KvSnapshot]) -> bool:
        """Puts a snapshot and the events after it into the index. False when events are missing between."""
        feed.has_snapshot = True
        self._index.clear(worker_id)
        for page in pages:
            hashes = split_hashes(page.hashes)
            for start in range(0, len(hashes), STORE_BATCH):
                self._index.store(worker_id, hashes[start : start + STORE_BATCH])
                await asyncio.sleep(0)
        # From here on nothing is awaited, so no event slips in between.
        feed.seq = min(page.seq for page in pages)
        events, feed.buffered = sorted(feed.buffered, key=lambda e: e.seq), []
        for event in events:
            if event.seq == feed.seq + 1:
                self._apply(feed, event)
            elif event.seq > feed.seq:
                feed.buffered = [e for e in events if e.seq >= event.seq]
                return False
        feed.is_synced = True
        self.num_snapshots += 1
        return True
