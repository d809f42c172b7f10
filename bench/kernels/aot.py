"""Compiles the kernels without a GPU: ``python -m bench.kernels.aot [80,86:prefill 90:hopper ...]``.

Each word names GPUs by compute capability, and cases by a regular expression; without any, all are compiled for all.

The launchers are run over tensors without memory (device "meta") while Triton's launch is replaced by a recorder, so
that what is compiled is what the code would choose: tiles, stages, types and what Triton specialises on. Prints the
shared memory that each kernel takes beside what a block of the GPU has. Needs TRITON_INTERPRET unset.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import JITFunction, create_function_from_signature

import kernels
from bench.kernels.aot_cases import Case, cases
from kernels import pdl

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227}
"""Shared memory that one block may have, by compute capability."""
STEP_SIZES = (1, 2, 3, 16, 17, 31, 32, 100, 128, 513)
"""Tokens: one, multiples of 16 and others, which is what Triton tells apart."""


def full_name(kernel: JITFunction[Any]) -> str:
    return f"{kernel.fn.__module__.removeprefix('kernels.')}.{kernel.fn.__name__}"


@dataclass(frozen=True)
class Launch:
    """One launch, as far as compiling is concerned."""

    kernel: JITFunction[Any]
    arguments: dict[str, Any]
    specialization: list[tuple[str, Any]]
    options: dict[str, Any]
    backend: Any
    target: GPUTarget

    @property
    def name(self) -> str:
        return full_name(self.kernel)

    @property
    def seen(self) -> dict[str, tuple[str, Any]]:
        """What Triton compiles in of each argument of the launch: its type and what it found special about it."""
        found = zip(self.kernel.params, self.specialization, strict=True)
        return {param.name: value for param, value in found if not param.is_constexpr}

    def compile(self) -> Any:
        """The kernel, compiled as a launch would."""
        options, signature, constants, attributes = self.kernel._pack_args(
            self.backend, dict(self.options), self.arguments, self.specialization, dict(self.options)
        )
        kind = GluonASTSource if self.kernel.is_gluon() else ASTSource
        source = kind(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=self.target, options=options.__dict__)


@contextmanager
def recorded(capability: int) -> Iterator[list[Launch]]:
    """Launches within are listed instead of done, as on a GPU of this compute capability."""
    launches: list[Launch] = []
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)

    def run(kernel: JITFunction[Any], *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        arguments, specialization, options = bind(*args, **kwargs)
        launches.append(Launch(kernel, arguments, specialization, options, backend, target))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(pdl, "pdl_supported", return_value=capability >= 90),
    ):
        yield launches


def launches_of(case: Case, capability: int, tokens: int) -> list[Launch]:
    with recorded(capability) as launches:
        case.run(tokens)
    return launches


def compiled(selection: str, tokens: int) -> Iterator[dict[str, Any]]:
    """Each kernel of the cases selected, for each GPU that it is meant for: what it takes, or why it does not compile."""
    gpus, _, pattern = selection.partition(":")
    capabilities = [int(gpu) for gpu in gpus.split(",")]
    for case in cases():
        if not re.search(pattern, case.name):
            continue
        for capability in capabilities:
            for launch in launches_of(case, capability, tokens) if capability >= case.capability else []:
                yield {"case": case.name, "gpu": capability, "kernel": launch.name} | compile_one(
                    launch, capability
                )


def compile_one(launch: Launch, capability: int) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        shared = launch.compile().metadata.shared
        row = {"shared": shared, "fits": shared <= SHARED_KIB[capability] << 10}
    except Exception as error:  # whatever the compiler says, the others are to be tried
        row = {"fits": False, "error": str(error)[-300:]}
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def variants() -> Iterator[dict[str, Any]]:
    """Per case and kernel, the arguments of which Triton sees something special in steps of some sizes only.

    Also, with no launches, each kernel that no case launches.
    """
    unlaunched = kernel_names()
    for case in cases():
        seen: dict[str, dict[str, set[Any]]] = {}
        count: Counter[str] = Counter()
        for tokens in STEP_SIZES:
            for launch in launches_of(case, 90, tokens):
                unlaunched.discard(launch.name)
                count[launch.name] += 1
                for name, found in launch.seen.items():
                    seen.setdefault(launch.name, {}).setdefault(name, set()).add(str(found))
        for kernel, arguments in seen.items():
            varies = {name: sorted(found) for name, found in arguments.items() if len(found) > 1}
            yield {"case": case.name, "kernel": kernel, "launches": count[kernel], "varies": varies}
    for kernel in sorted(unlaunched):
        yield {"case": "", "kernel": kernel, "launches": 0, "varies": {}}


def kernel_names() -> set[str]:
    """Every function of `kernels/` that is launched: those named `..._kernel`."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(kernels.__path__, "kernels.")
    ]
    values = (value for module in modules for name, value in vars(module).items() if name.endswith("_kernel"))
    return {full_name(value) for value in values if isinstance(value, JITFunction)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("selections", nargs="*", default=[",".join(map(str, SHARED_KIB)) + ":"])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument(
        "--variants", action="store_true", help="what is compiled in, for steps of many sizes"
    )
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    if options.variants:
        for row in variants():
            print(json.dumps(row), flush=True)
        return
    wrong = 0
    for row in (row for selection in options.selections for row in compiled(selection, options.tokens)):
        wrong += not row["fits"]
        print(json.dumps(row) if options.json else show(row), flush=True)
    sys.exit(wrong > 0)


def show(row: dict[str, Any]) -> str:
    taken = row.get("error") or f"{row['shared'] / 1024:.0f} of {SHARED_KIB[row['gpu']]} KiB"
    verdict = "ok" if row["fits"] else "WRONG"
    return f"sm_{row['gpu']} {row['case']}: {row['kernel']} {verdict}, {taken} ({row['seconds']} s)"


if __name__ == "__main__":
    main()
