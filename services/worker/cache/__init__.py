"""Which KV block holds what: blocks with reference counts, and prefixes found again by name. Pure."""

from services.worker.cache.pool import BlockPool, OutOfBlocks
from services.worker.cache.prefix import CacheChanges, HashChain, PrefixCache

__all__ = ["BlockPool", "CacheChanges", "HashChain", "OutOfBlocks", "PrefixCache"]
