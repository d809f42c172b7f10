"""Sampling over real vocabularies, logits as flat as dummy weights give and as peaked as models give."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from bench.kernels.measure import Group, Variant
from kernels.sampling import SamplingTensors, reference
from kernels.sampling.launch import SamplingConfig, sample_triton

DEVICE = "cuda"
ROWS = (1, 32, 256)
VOCABULARY = 128256
CASES = {
    "greedy": {"temperature": 0.0, "all_greedy": True},
    "temperature": {"temperature": 0.8},
    "top-p": {"top_p": 0.9, "any_top_p_k": True},
    "top-k": {"top_k": 50, "any_top_p_k": True},
    "top-k+p": {"top_k": 50, "top_p": 0.95, "temperature": 0.7, "any_top_p_k": True},
    "min-p": {"min_p": 0.05, "any_top_p_k": True},
    "logprobs": {"temperature": 0.8, "any_logprobs": True},
    "penalties": {"presence": 0.5, "frequency": 0.1, "repetition": 1.1, "any_penalty": True},
}
# How peaked: random logits are scaled by this. 1 is a random model's; 3.5 puts a nucleus at tens of tokens.
SHARPNESS = {"flat": 1.0, "peaked": 3.5}


@dataclass
class Inputs:
    logits: torch.Tensor
    params: SamplingTensors
    token_index: torch.Tensor


def make_inputs(rows: int, case: str, sharpness: float, dtype: torch.dtype, seed: int) -> Inputs:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    logits = (torch.randn(rows, VOCABULARY, generator=generator, device=DEVICE) * sharpness).to(dtype)
    defaults = {
        "temperature": (1.0, torch.float32), "top_p": (1.0, torch.float32), "top_k": (0, torch.int32),
        "min_p": (0.0, torch.float32), "presence": (0.0, torch.float32), "frequency": (0.0, torch.float32),
        "repetition": (1.0, torch.float32),
    }  # fmt: skip
    options = dict(CASES[case])
    fields = {
        name: torch.full((rows,), options.pop(name, neutral), dtype=kind, device=DEVICE)
        for name, (neutral, kind) in defaults.items()
    }
    if "any_penalty" in options:
        counts = torch.randint(0, 200, (rows, VOCABULARY), generator=generator, device=DEVICE)
        fields["output_counts"] = (counts == 0).to(torch.int16)
        fields["prompt_mask"] = counts == 1
        fields["slot"] = torch.arange(rows, device=DEVICE)
    fields["seed"] = torch.randint(0, 1 << 60, (rows,), generator=generator, device=DEVICE)
    return Inputs(logits, SamplingTensors(**fields, **options), torch.arange(rows, device=DEVICE))


def run(config: SamplingConfig, inputs: Inputs) -> torch.Tensor:
    return sample_triton(inputs.logits, inputs.params, inputs.token_index, config).ids


def agreement(inputs: Inputs, ids: torch.Tensor) -> torch.Tensor:
    """1 for each row that draws the reference's token; the float differences of two chips may flip a near tie."""
    return (ids == reference.sample(inputs.logits, inputs.params, inputs.token_index).ids).float()


def groups() -> Iterator[Group]:
    configs = [
        SamplingConfig(4096, 16),
        SamplingConfig(4096, 8),
        SamplingConfig(2048, 8),
        SamplingConfig(8192, 16),
    ]
    for rows in ROWS:
        for case in CASES:
            for name, sharpness in SHARPNESS.items():
                dtypes = (
                    (torch.bfloat16, torch.float32) if rows == 256 and name == "peaked" else (torch.bfloat16,)
                )
                for dtype in dtypes:
                    yield Group(
                        op="sampling",
                        shape=f"R{rows} {case} {name} {str(dtype)[6:]}",
                        variants=[
                            Variant(
                                f"{config.chunk}/{config.warps}",
                                functools.partial(run, config),
                                asdict(config),
                            )
                            for config in configs
                        ],
                        make=functools.partial(make_inputs, rows, case, sharpness, dtype),
                        answer=lambda inputs: torch.ones(inputs.logits.shape[0], device=DEVICE),
                        bytes=float(dtype.itemsize * rows * VOCABULARY),
                        tolerance=0.15,
                        view=agreement,
                    )
