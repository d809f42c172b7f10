"""Tuned choices per GPU: `configs/<GPU name>.json`, written by `python -m bench.kernels`, read once per process."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch


@functools.cache
def tuned(device: torch.device) -> dict[str, Any]:
    """The tuned choices for `device` by kernel name; empty where this GPU has none, so that defaults apply."""
    if device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(device).replace(" ", "_").replace("/", "_")
    path = Path(__file__).with_name(f"{name}.json")
    return json.loads(path.read_text()) if path.exists() else {}
