import ast
from pathlib import Path

import pytest

from bench.step_trace import (
    ATTENTION,
    COPIES,
    ELSEWHERE,
    IDLE,
    LAUNCH,
    LAYERS,
    OTHER,
    PRODUCTS,
    READ,
    SAMPLING,
    SUMS,
    Span,
    Trace,
    breakdown,
    host_syncs,
    kind_of,
    longest_kernels,
)

KERNELS = Path(__file__).resolve().parents[3] / "kernels"
BY_FOLDER = {
    "activation": LAYERS, "attention": ATTENTION, "embedding": LAYERS, "linear": PRODUCTS, "norm": LAYERS,
    "rank_sum": SUMS, "rope_kv": LAYERS, "sampling": SAMPLING,
}  # fmt: skip


def own_kernels():
    for path in sorted(KERNELS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                decorators = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
                if any(name.endswith(".jit") for name in decorators):
                    yield path.parent.name, node.name


def test_every_kernel_of_ours_counts_as_what_its_folder_is_for():
    found = {(folder, name): kind_of(name) for folder, name in own_kernels()}
    assert {folder for folder, _ in found} == set(BY_FOLDER)
    ambiguous = {("attention", "gather_kernel"), ("sampling", "gather_kernel")}
    for (folder, name), kind in found.items():
        assert kind == (OTHER if (folder, name) in ambiguous else BY_FOLDER[folder]), name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", PRODUCTS),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>", PRODUCTS),
        ("void cublasLt::splitKreduce_kernel<32, 16>", PRODUCTS),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", SUMS),
        ("Memcpy DtoH (Device -> Pinned)", COPIES),
        ("Memset (Device)", COPIES),
        ("void at::native::vectorized_gather_kernel<16, long>(char*, char*)", OTHER),
        ("void at::native::elementwise_kernel<128, 2>", OTHER),
    ],
)
def test_kernels_of_libraries(name, kind):
    assert kind_of(name) == kind


def steady_steps(steps):
    """Steps of 100 us: a product of 60, attention that overlaps its last 10 and goes on for 20, 20 of nothing."""
    device = []
    for step in range(steps):
        begin = 100.0 * step
        device += [Span("gemv_kernel", begin, begin + 60), Span("decode_kernel", begin + 50, begin + 80)]
    return device


def test_the_kinds_and_idle_time_of_a_step_sum_up_to_the_step():
    found = breakdown(Trace(100, steady_steps(100), [], []))
    ms = found["ms"]
    assert ms[PRODUCTS] == pytest.approx(0.06, rel=0.01)
    assert ms[ATTENTION] == pytest.approx(0.02, rel=0.02)  # the overlap is the product's, which began first
    assert ms[IDLE] == pytest.approx(0.02, rel=0.02)
    assert sum(ms.values()) == pytest.approx(0.1, rel=0.005)
    assert found["busy"] == pytest.approx(0.8, rel=0.01)
    assert found["kernels_per_step"] == 2


def test_a_short_kernel_within_a_long_one_adds_nothing():
    device = [Span("gemv_kernel", 0, 100), Span("Memset (Device)", 40, 50)]
    assert breakdown(Trace(1, device, [], []))["ms"][COPIES] == 0
    assert breakdown(Trace(1, device, [], []))["busy"] == 1


def test_without_a_device_there_is_no_breakdown():
    assert breakdown(Trace(5, [], [Span("cudaLaunchKernel", 0, 1)], [])) is None


def test_waits_are_told_by_where_they_were_made():
    ranges = [Span(LAUNCH, 0, 10), Span(READ, 10, 90), Span(LAUNCH, 100, 110), Span(READ, 110, 190)]
    calls = [
        Span("cudaGraphLaunch", 2, 6), Span("cudaMemcpyAsync", 1, 2), Span("cudaEventQuery", 7, 8),
        Span("cudaEventSynchronize", 20, 80), Span("cudaEventSynchronize", 120, 170),
        Span("cudaStreamSynchronize", 105, 108), Span("cudaMemcpy", 95, 97), Span("cudaHostAlloc", 103, 104),
    ]  # fmt: skip
    device = [Span("Memcpy HtoD (Pageable -> Device)", 3, 4), Span("Memcpy HtoD (Pinned -> Device)", 5, 6)]
    found = host_syncs(Trace(2, device, calls, ranges))
    assert found[READ] == {
        "cudaEventSynchronize": {"per_step": 1, "waited_per_step": 1, "us_per_step": 55, "longest_us": 60}
    }
    assert set(found[LAUNCH]) == {"cudaStreamSynchronize", "cudaHostAlloc"}
    assert found[LAUNCH]["cudaStreamSynchronize"] == {
        "per_step": 0.5,
        "waited_per_step": 0,
        "us_per_step": 1.5,
        "longest_us": 3,
    }
    assert set(found[ELSEWHERE]) == {"cudaMemcpy"}
    assert found["pageable_copies_per_step"] == 0.5


def test_kernels_are_listed_by_what_they_take_in_a_step():
    first, second = longest_kernels(Trace(100, steady_steps(100), [], []), 5)
    assert (first["name"], first["us_per_step"], first["per_step"]) == ("gemv_kernel", 60, 1)
    assert (second["kind"], second["us_per_step"]) == (ATTENTION, 30)
