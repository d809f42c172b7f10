"""The names of KV blocks: one hash chain that workers, routers and kvstore compute alike.

The hash of block i covers every token before it too, so equal hashes mean equal prefixes. The root of a chain
covers what else decides the KV values or who may share them: adapter, images, the tenant's salt.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

HASH_BYTES = 16
_ID_BYTES = 4  # little-endian int32


def chain_root(*, adapter: str = "", cache_salt: str = "", image_hashes: Sequence[bytes] = ()) -> bytes:
    """The parent of a sequence's first block. ``cache_salt`` keeps tenants from probing each other's prompts."""
    state = blake2b(digest_size=HASH_BYTES)
    for part in (adapter.encode(), cache_salt.encode(), *image_hashes):
        state.update(len(part).to_bytes(4, "little") + part)
    return state.digest()


def hash_block(parent: bytes, ids: Sequence[int]) -> bytes:
    """The 16-byte name of a full block with these token ids after ``parent``."""
    packed = struct.pack(f"<{len(ids)}i", *ids)
    return blake2b(packed, key=parent, digest_size=HASH_BYTES).digest()


def hash_blocks(root: bytes, ids: Sequence[int], block_size: int) -> list[bytes]:
    """The names of all full blocks of a sequence, in order; a partial last block has none."""
    return list(BlockChain(root, ids, block_size))


class BlockChain:
    """The names of a sequence's full blocks, each computed when it is first reached and then kept.

    Whoever looks for a cached prefix stops at the first block that nobody has, so most are never needed.
    """

    def __init__(self, root: bytes, ids: Sequence[int], block_size: int) -> None:
        self._packed, self._block_bytes = _pack(ids), _ID_BYTES * block_size
        self._parent, self._names = root, list[bytes]()

    def __iter__(self) -> Iterator[bytes]:
        names = self._names
        yield from names
        for start in range(len(names) * self._block_bytes, len(self._packed), self._block_bytes):
            block = self._packed[start : start + self._block_bytes]
            if len(block) < self._block_bytes:
                return
            self._parent = blake2b(block, key=self._parent, digest_size=HASH_BYTES).digest()
            names.append(self._parent)
            yield self._parent


def _pack(ids: Sequence[int]) -> bytes:
    items = array("i", ids)
    if sys.byteorder == "big":
        items.byteswap()
    return items.tobytes()


def split_hashes(packed: bytes) -> list[bytes]:
    """Hashes as they travel, 16 bytes each, one after the other. A torn last one is dropped."""
    end = len(packed) - len(packed) % HASH_BYTES
    return [packed[i : i + HASH_BYTES] for i in range(0, end, HASH_BYTES)]
