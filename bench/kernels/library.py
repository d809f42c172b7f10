"""What cuBLASLt could choose for products of many tokens: ``python -m bench.kernels.library [--tokens 2048 512] [--json F]``.

Each candidate of its heuristic and torch.mm, for the 8B shape's products. Such products run at the GPU's power limit, where
the kernel that takes the least energy is the fastest; so after a short look the best ones run for a while each, in two
turns. Candidates are named by their settings, for torch offers no way to choose one: this says what that costs.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.conditions import conditions, write

SHAPES = {"gate and up": (28672, 4096), "down": (4096, 14336), "qkv": (6144, 4096), "o": (4096, 4096)}
WEIGHTS = 4  # matrices in turn, so that none stays in L2
WORKSPACE_BYTES = 64 << 20
MOST = 40  # candidates asked for
LOOK_S, KEPT = 0.04, 6
# Numbers of cublasLt.h.
_F32, _BF16, _COMPUTE_F32, _TRANSPOSE_A, _MAX_WORKSPACE = 0, 14, 68, 3, 1
_SETTINGS = {"id": 0, "tile": 1, "split": 2, "swizzle": 4, "custom": 5, "stages": 6, "inner": 7, "cluster": 8}


class _Candidate(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Library:
    def __init__(self) -> None:
        major = (torch.version.cuda or "").split(".")[0]
        self._calls = ctypes.CDLL(f"libcublasLt.so.{major}")
        self.handle = ctypes.c_void_p()
        self("Create", ctypes.byref(self.handle))
        self.workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._calls, "cublasLt" + name)(*arguments)
        if status:
            raise RuntimeError(f"cublasLt{name}: status {status}")

    def layout(self, rows: int, columns: int) -> ctypes.c_void_p:
        """Of a matrix of bfloat16 whose columns lie one after another."""
        made = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows))
        self("MatrixLayoutCreate", ctypes.byref(made), _BF16, *sizes)
        return made


class Product:
    """out [T, N] = x [T, K] weight [N, K]^T: to cuBLAS out^T = weight x^T, its matrices' columns being our rows."""

    def __init__(self, library: Library, tokens: int, width: int, depth: int) -> None:
        self._library = library
        self._what = ctypes.c_void_p()
        library("MatmulDescCreate", ctypes.byref(self._what), _COMPUTE_F32, _F32)
        yes = ctypes.c_int32(1)
        library("MatmulDescSetAttribute", self._what, _TRANSPOSE_A, ctypes.byref(yes), ctypes.c_size_t(4))
        self._layouts = [library.layout(*s) for s in ((depth, width), (depth, tokens), (width, tokens))]
        wish, room = ctypes.c_void_p(), ctypes.c_uint64(WORKSPACE_BYTES)
        library("MatmulPreferenceCreate", ctypes.byref(wish))
        library("MatmulPreferenceSetAttribute", wish, _MAX_WORKSPACE, ctypes.byref(room), ctypes.c_size_t(8))
        found, count = (_Candidate * MOST)(), ctypes.c_int()
        library(
            "MatmulAlgoGetHeuristic", library.handle, self._what, *self._layouts, self._layouts[2], wish, MOST,
            found, ctypes.byref(count),
        )  # fmt: skip
        self.candidates = {
            self._name(found[i]): found[i] for i in reversed(range(count.value)) if not found[i].state
        }

    def _name(self, candidate: _Candidate) -> str:
        said = []
        for name, attribute in _SETTINGS.items():
            value, size = ctypes.c_uint32(), 2 if name in ("inner", "cluster") else 4
            self._library(
                "MatmulAlgoConfigGetAttribute", ctypes.byref(candidate), attribute, ctypes.byref(value),
                ctypes.c_size_t(size), ctypes.byref(ctypes.c_size_t()),
            )  # fmt: skip
            said.append(f"{name} {value.value}")
        return ", ".join(said)

    def run(self, candidate: _Candidate, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        one, none = ctypes.c_float(1.0), ctypes.c_float(0.0)
        w, a, o = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, x, out))
        of_w, of_a, of_o = self._layouts
        workspace = self._library.workspace
        self._library(
            "Matmul", self._library.handle, self._what, ctypes.byref(one), w, of_w, a, of_a, ctypes.byref(none),
            o, of_o, o, of_o, ctypes.byref(candidate), ctypes.c_void_p(workspace.data_ptr()),
            ctypes.c_size_t(workspace.numel()), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )  # fmt: skip


def sustained_us(body: Callable[[], None], seconds: float) -> float:
    """Microseconds of a captured `body`, over the second half of that time."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
    with torch.cuda.stream(torch.cuda.Stream()):
        body()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        half = max(int(500 * seconds / begin.elapsed_time(end)), 1)
        for turn in range(2 * half):
            if turn == half:
                begin.record()
            graph.replay()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) * 1e3 / half


def measure(library: Library, tokens: int, width: int, depth: int, seconds: float) -> dict[str, float]:
    """Least microseconds of the best candidates and of torch, the best first."""
    x = torch.randn(tokens, depth, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(width, depth, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(WEIGHTS)]
    out, answer = x.new_empty(tokens, width), x @ weights[0].t()
    product = Product(library, tokens, width, depth)

    def by_torch() -> None:
        for weight in weights:
            torch.mm(x, weight.t(), out=out)

    def by(candidate: _Candidate) -> None:
        for weight in weights:
            product.run(candidate, x, weight, out)

    forms: dict[str, Callable[[], None]] = {"torch": by_torch}
    for name, candidate in product.candidates.items():
        product.run(candidate, x, weights[0], out)
        if torch.allclose(out, answer, atol=0.1, rtol=0.02):
            forms[name] = partial(by, candidate)
        else:
            print(f"WRONG: {name}")
    looked = sorted((sustained_us(form, LOOK_S), name) for name, form in forms.items())
    kept = dict.fromkeys([name for _, name in looked[:KEPT]] + ["torch"])
    best = {name: float("inf") for name in kept}
    for _ in range(2):
        for name in kept:
            best[name] = min(best[name], sustained_us(forms[name], seconds) / WEIGHTS)
    return dict(sorted(best.items(), key=lambda item: item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 512])
    parser.add_argument("--seconds", type=float, default=0.15, help="for each of the best, twice")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    library = Library()
    rows: list[dict[str, Any]] = []
    report = conditions("python -m bench.kernels.library") | {"seconds": arguments.seconds, "rows": rows}
    for tokens in arguments.tokens:
        for product, (width, depth) in SHAPES.items():
            us = measure(library, tokens, width, depth, arguments.seconds)
            rows.append({"tokens": tokens, "product": product, "us": us})
            print(f"{tokens} tokens, {product}")
            for name, took in us.items():
                print(
                    f"  {took:8.1f} us {2 * tokens * width * depth / took / 1e6:5.0f} TFLOP/s  {name}",
                    flush=True,
                )
            if arguments.json:
                write(arguments.json, report)


if __name__ == "__main__":
    main()
