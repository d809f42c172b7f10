"""The names of KV blocks: one hash chain that workers, routers and kvstore compute alike.

The hash of block i covers every token before it too, so equal hashes mean equal prefixes. The root of a chain
covers what else decides the KV values or who may share them: adapter, images, the tenant's salt.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 16


def chain_root(*, adapter: str = "", cache_salt: str = "", image_hashes: Sequence[bytes] = ()) -> bytes:
    """The parent of a sequence's first block. ``cache_salt`` keeps tenants from probing each other's prompts."""
    state = blake2b(digest_size=HASH_BYTES)
    for part in (adapter.encode(), cache_salt.encode(), *image_hashes):
        state.update(len(part).to_bytes(4, "little") + part)
    return state.digest()


def hash_block(parent: bytes, ids: Sequence[int]) -> bytes:
    """The 16-byte name of a full block with these token ids after ``parent``."""
    items = array("i", ids)
    if sys.byteorder == "big":
        items.byteswap()
    return blake2b(items.tobytes(), key=parent, digest_size=HASH_BYTES).digest()


def hash_blocks(root: bytes, ids: Sequence[int], block_size: int) -> list[bytes]:
    """The names of all full blocks of a sequence, in order; a partial last block has none."""
    names: list[bytes] = []
    parent = root
    for end in range(block_size, len(ids) + 1, block_size):
        parent = hash_block(parent, ids[end - block_size : end])
        names.append(parent)
    return names


def split_hashes(packed: bytes) -> list[bytes]:
    """Hashes as they travel, 16 bytes each, one after the other. A torn last one is dropped."""
    end = len(packed) - len(packed) % HASH_BYTES
    return [packed[i : i + HASH_BYTES] for i in range(0, end, HASH_BYTES)]
