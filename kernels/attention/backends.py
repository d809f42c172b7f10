"""Other libraries' prefill kernels behind this package's interface, used where installed and measured to be faster.

A backend answers "can I?" with yes or a reason. Each refusal is logged once per process, so that a slow prefill can
be explained from the log. Decode rows always run our own kernel, which captured graphs rely on.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from typing import Protocol

import torch

from kernels.attention.meta import AttentionMeta
from kernels.configs import tuned

logger = logging.getLogger(__name__)


class PrefillBackend(Protocol):
    """Prefill by someone else's kernel. Stateless: it owns and frees nothing."""

    name: str

    def can_run(self, q: torch.Tensor, k_cache: torch.Tensor) -> str | None:
        """None if this backend can take such tensors on this machine, else why it cannot."""
        ...

    def run(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
        scale: float,
        sliding_window: int | None,
        out: torch.Tensor,
    ) -> None:
        """Attention of the rows after the first `meta.num_decodes` into `out`, as `paged_attention` defines it."""
        ...


@functools.cache
def installed(module: str) -> bool:
    """Whether `module` can be imported. Asked once: looking through the path takes 30 us, and every layer asks."""
    return importlib.util.find_spec(module) is not None


class FlashAttention3:
    """FlashAttention 3 for Hopper (module `flash_attn_interface`), which reads paged caches by itself."""

    name = "flash_attention_3"

    def can_run(self, q: torch.Tensor, k_cache: torch.Tensor) -> str | None:
        if not installed("flash_attn_interface"):
            return "flash_attn_interface is not installed"
        if torch.cuda.get_device_capability(q.device)[0] != 9:
            return "the GPU is not a Hopper"
        if q.dtype not in (torch.bfloat16, torch.float16) or k_cache.dtype != q.dtype:
            return f"queries are {q.dtype} and the cache {k_cache.dtype}"
        if q.shape[2] > 256 or q.shape[2] % 8:
            return f"head size {q.shape[2]} is not a multiple of 8 up to 256"
        return None

    def run(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        meta: AttentionMeta,
        scale: float,
        sliding_window: int | None,
        out: torch.Tensor,
    ) -> None:
        library = importlib.import_module("flash_attn_interface")
        split = meta.num_decodes
        window = (-1, -1) if sliding_window is None else (sliding_window - 1, 0)
        result = library.flash_attn_with_kvcache(
            q,
            k_cache,
            v_cache,
            cache_seqlens=meta.seq_lens[split:],
            page_table=meta.block_tables[split:],
            cu_seqlens_q=meta.query_start[split:],
            max_seqlen_q=meta.max_query_len,
            softmax_scale=scale,
            causal=True,
            window_size=window,
        )
        # Rows of decodes may be padded, tokens are not: only the device knows which token is the first of a chunk.
        is_chunk = torch.arange(len(q), device=q.device) >= meta.query_start[split]
        torch.where(is_chunk[:, None, None], result, out, out=out)


BACKENDS: tuple[PrefillBackend, ...] = (FlashAttention3(),)


@functools.cache
def log_refusal(name: str, reason: str) -> None:
    logger.info("prefill backend %s is not used: %s", name, reason)


def prefill_backend(
    q: torch.Tensor, k_cache: torch.Tensor, backends: tuple[PrefillBackend, ...] = BACKENDS
) -> PrefillBackend | None:
    """The backend that this GPU's table names, if it can take these tensors; None is Triton.

    The table's entry `prefill_backend` says what measured faster than our own kernels on this GPU. Without one a
    library is not used, however well known: nobody has measured it against what is here.
    """
    faster = tuned(q.device).get("prefill_backend")
    if faster is None:
        return None
    for backend in backends:
        if backend.name == faster:
            reason = backend.can_run(q, k_cache)
            if reason is None:
                return backend
            log_refusal(faster, reason)
            return None
    log_refusal(faster, f"there is none of this name, only {', '.join(backend.name for backend in backends)}")
    return None
