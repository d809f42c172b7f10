"""The prefix cache's contents as the control process tells them to routers and kvstore."""

from __future__ import annotations

from services.common.blockhash import split_hashes
from services.common.messages.events import KvEvents, KvSnapshot

ENVELOPE_BYTES = 4096  # of a message, beside its hashes


class KvLog:
    """Numbers the changes 1, 2, 3, ... and answers snapshots, in pages of ``page_hashes``.

    A snapshot is frozen when its page 0 is asked for; further pages come from the same one, and say its ``seq``.
    """

    def __init__(self, worker_id: str, epoch: int, *, max_payload: int) -> None:
        self._worker_id, self._epoch = worker_id, epoch
        self._page_bytes = 16 * max(1, (max_payload - ENVELOPE_BYTES) // 16)
        self._seq = 0
        self._names: dict[bytes, None] = {}
        self._frozen, self._frozen_seq = b"", 0

    def apply(self, stored: bytes, removed: bytes) -> KvEvents:
        for name in split_hashes(removed):
            self._names.pop(name, None)
        self._names.update(dict.fromkeys(split_hashes(stored)))
        self._seq += 1
        return KvEvents(self._worker_id, self._epoch, self._seq, stored, removed)

    def snapshot(self, page: int) -> KvSnapshot:
        """A page; one beyond the last is empty."""
        if page == 0:
            self._frozen, self._frozen_seq = b"".join(self._names), self._seq
        num_pages = max(1, -(-len(self._frozen) // self._page_bytes))
        start = max(0, page) * self._page_bytes
        hashes = self._frozen[start : start + self._page_bytes]
        return KvSnapshot(self._worker_id, self._epoch, self._frozen_seq, page, num_pages, hashes)
