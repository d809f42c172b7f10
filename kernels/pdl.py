"""Programmatic dependent launch: a kernel may start while the one before it drains.

A kernel launched with `PDL=True` may load its weights first, but calls `wait_upstream` before it reads anything
that an earlier kernel of the stream wrote, or writes anything that an earlier kernel reads. Every program calls it,
so that the completion of one kernel implies the completion of all before it. Needs compute capability 9.0.
"""

from __future__ import annotations

import functools
import os

import torch
import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def wait_upstream(PDL: tl.constexpr):
    """Block until the kernels before this one have finished and their writes are visible."""
    if PDL:
        cuda.gdc_wait()


@triton.jit
def launch_downstream(PDL: tl.constexpr):
    """Let the next kernel of the stream start its prologue once every program has come this far."""
    if PDL:
        cuda.gdc_launch_dependents()


@functools.cache
def pdl_supported(device: torch.device) -> bool:
    """Whether `device` can start a kernel before its predecessor has ended."""
    if device.type != "cuda" or os.environ.get("SHOAL_PDL", "1") == "0":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def launch_options(device: torch.device) -> dict[str, bool]:
    """Keyword arguments that turn dependent launch on where the device has it."""
    return {"PDL": True, "launch_pdl": True} if pdl_supported(device) else {"PDL": False}
