"""Takes all memory that is left on the first N GPUs, says so, and holds it: python -m bench.hold_gpu_memory N SECONDS."""

from __future__ import annotations

import sys
import time

import torch


def take(device: int) -> list[torch.Tensor]:
    """Ever smaller pieces, down to a MiB."""
    held: list[torch.Tensor] = []
    size = torch.cuda.mem_get_info(device)[0]
    while size >= 1 << 20:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=f"cuda:{device}"))
        except torch.cuda.OutOfMemoryError:
            size //= 2
    return held


def main() -> None:
    devices, seconds = int(sys.argv[1]), float(sys.argv[2])
    held = [take(device) for device in range(devices)]
    sizes = [sum(piece.numel() for piece in pieces) >> 20 for pieces in held]
    print(f"holding {sizes} MiB for {seconds:g} s", flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    main()
