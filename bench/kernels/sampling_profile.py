"""``python -m bench.kernels.sampling_profile``: microseconds of each sampling kernel at 256 rows, a JSON line a case."""

from __future__ import annotations

import json

import torch
from torch.profiler import ProfilerActivity, profile

from bench.kernels.sampling import VOCABULARY, make_inputs, variants

CALLS = 10


def main() -> None:
    for variant in variants():
        for case in ("temperature", "top-p", "top-k", "min-p"):
            for kind in ("flat", "peaked"):
                inputs = make_inputs(256, VOCABULARY, case, kind, torch.bfloat16, 1)
                variant.run(inputs)
                torch.cuda.synchronize()
                with profile(activities=[ProfilerActivity.CUDA]) as recorded:
                    for _ in range(CALLS):
                        variant.run(inputs)
                    torch.cuda.synchronize()
                times = {
                    event.key: round(event.self_device_time_total / CALLS, 1)
                    for event in recorded.key_averages()
                }
                print(
                    json.dumps({"variant": variant.name, "case": case, "kind": kind, "us": times}), flush=True
                )


if __name__ == "__main__":
    main()
