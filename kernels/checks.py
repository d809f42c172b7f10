"""Argument checks shared by the operators."""

from __future__ import annotations

import torch


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_rows(name: str, x: torch.Tensor, width: int | None = None) -> None:
    """Require a 2-D row-major tensor, optionally of `width` columns."""
    require(x.dim() == 2, f"{name} must be 2-D, got shape {tuple(x.shape)}")
    require(x.is_contiguous(), f"{name} must be contiguous, got strides {x.stride()}")
    require(width is None or x.shape[1] == width, f"{name} must have {width} columns, got {x.shape[1]}")


def require_vector(name: str, x: torch.Tensor, length: int) -> None:
    """Require a contiguous 1-D tensor of `length` elements."""
    require(
        x.dim() == 1 and x.shape[0] == length, f"{name} must have shape ({length},), got {tuple(x.shape)}"
    )
    require(x.is_contiguous(), f"{name} must be contiguous")
