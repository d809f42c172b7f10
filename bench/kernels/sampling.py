"""Sampling over real vocabularies, logits as flat as dummy weights give and as peaked as models give.

Other kinds of logits, which are hard for one step or another of the kernels, are checked and not timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from bench.kernels.measure import Group, Variant
from kernels.sampling import SamplingTensors, reference
from kernels.sampling.launch import SamplingConfig, sample_triton

DEVICE = "cuda"
ROWS = (1, 32, 256)
VOCABULARY = 128256
LARGER_VOCABULARY = 151936
CASES = {
    "greedy": {"temperature": 0.0, "all_greedy": True},
    "temperature": {"temperature": 0.8},
    "top-p": {"top_p": 0.9, "any_top_p_k": True},
    "top-p half": {"top_p": 0.5, "any_top_p_k": True},
    "top-k": {"top_k": 50, "any_top_p_k": True},
    "top-k 1000": {"top_k": 1000, "any_top_p_k": True},
    "top-k+p": {"top_k": 50, "top_p": 0.95, "temperature": 0.7, "any_top_p_k": True},
    "min-p": {"min_p": 0.05, "any_top_p_k": True},
    "logprobs": {"temperature": 0.8, "any_logprobs": True},
    "penalties": {"presence": 0.5, "frequency": 0.1, "repetition": 1.1, "any_penalty": True},
}
RESTRICTED = tuple(case for case, options in CASES.items() if "any_top_p_k" in options)
# Random normal logits become: 1 is a random model's; 3.5 puts a nucleus at tens of tokens.
TIMED_KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "flat": lambda normal: normal,
    "peaked": lambda normal: normal * 3.5,
}
CHECKED_KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "equal": lambda normal: normal * 0.0,
    "two values": lambda normal: (normal > 2.5) * 8.0,
    "descending": lambda normal: (normal * 2.0).sort(dim=1, descending=True).values,
    "few allowed": lambda normal: torch.where(normal > 3.5, normal, float("-inf")),
    "one sure": lambda normal: torch.where(normal == normal.amax(1, keepdim=True), 40.0, normal),
}


@dataclass
class Inputs:
    logits: torch.Tensor
    params: SamplingTensors
    token_index: torch.Tensor


def make_inputs(rows: int, vocabulary: int, case: str, kind: str, dtype: torch.dtype, seed: int) -> Inputs:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    normal = torch.randn(rows, vocabulary, generator=generator, device=DEVICE)
    logits = (TIMED_KINDS | CHECKED_KINDS)[kind](normal).to(dtype)
    defaults = {
        "temperature": (1.0, torch.float32), "top_p": (1.0, torch.float32), "top_k": (0, torch.int32),
        "min_p": (0.0, torch.float32), "presence": (0.0, torch.float32), "frequency": (0.0, torch.float32),
        "repetition": (1.0, torch.float32),
    }  # fmt: skip
    options = dict(CASES[case])
    fields = {
        name: torch.full((rows,), options.pop(name, neutral), dtype=number, device=DEVICE)
        for name, (neutral, number) in defaults.items()
    }
    if "any_penalty" in options:
        counts = torch.randint(0, 200, (rows, vocabulary), generator=generator, device=DEVICE)
        fields["output_counts"] = (counts == 0).to(torch.int16)
        fields["prompt_mask"] = counts == 1
        fields["slot"] = torch.arange(rows, device=DEVICE)
    fields["seed"] = torch.randint(0, 1 << 60, (rows,), generator=generator, device=DEVICE)
    return Inputs(logits, SamplingTensors(**fields, **options), torch.arange(rows, device=DEVICE))


def run(config: SamplingConfig, inputs: Inputs) -> torch.Tensor:
    return sample_triton(inputs.logits, inputs.params, inputs.token_index, config).ids


@functools.lru_cache(maxsize=1)
def reference_ids(make: Callable[[int], Inputs]) -> torch.Tensor:
    """What the reference draws from the inputs that are checked."""
    inputs = make(1)
    return reference.sample(inputs.logits, inputs.params, inputs.token_index).ids


def agreement(make: Callable[[int], Inputs], inputs: Inputs, ids: torch.Tensor) -> torch.Tensor:
    """1 for each row that draws the reference's token; the float differences of two chips may flip a near tie."""
    return (ids == reference_ids(make)).float()


def variants() -> list[Variant]:
    configs = {
        f"{chunk}/{group}/{capacity}": SamplingConfig(chunk, 16, group, capacity)
        for chunk, group, capacity in (
            (4096, 64, 1024),
            (4096, 64, 2048),
            (4096, 32, 1024),
            (2048, 64, 1024),
            (8192, 64, 1024),
        )
    }
    return [Variant(name, functools.partial(run, config), asdict(config)) for name, config in configs.items()]


def shapes() -> Iterator[tuple[int, int, str, str, torch.dtype]]:
    """Rows, vocabulary, case, kind of logits and their type."""
    for rows in ROWS:
        for case in CASES:
            for kind in TIMED_KINDS:
                yield rows, VOCABULARY, case, kind, torch.bfloat16
    for case in CASES:
        yield 256, VOCABULARY, case, "peaked", torch.float32
    for case in RESTRICTED:
        for rows in ROWS:
            yield rows, LARGER_VOCABULARY, case, "peaked", torch.bfloat16
        for kind in CHECKED_KINDS:
            yield 32, VOCABULARY, case, kind, torch.bfloat16


def groups() -> Iterator[Group]:
    for rows, vocabulary, case, kind, dtype in shapes():
        make = functools.partial(make_inputs, rows, vocabulary, case, kind, dtype)
        size = "" if vocabulary == VOCABULARY else f" V{vocabulary}"
        yield Group(
            op="sampling",
            shape=f"R{rows}{size} {case} {kind} {str(dtype)[6:]}",
            variants=variants(),
            make=make,
            answer=lambda inputs: torch.ones(inputs.logits.shape[0], device=DEVICE),
            bytes=float(dtype.itemsize * rows * vocabulary),
            tolerance=0.15,
            timed=kind in TIMED_KINDS,
            view=functools.partial(agreement, make),
        )
