import pytest

from bench.engine_bars import findings, show


def waits(**launch):
    return {"launch": launch, "read": {}, "elsewhere": {}, "pageable_copies_per_step": 0}


def found(words, result):
    return [
        (f.what, f.ours, f.met) for f in findings({"p": {"words": f"{words} --json x", "result": result}})
    ]


def smoke(rows, busy, syncs):
    batch = {"rows": rows, "steady": {"busy": busy}, "host_syncs": syncs}
    return {"shapes": [{"shape": "llama-3-8b", "tp": 1, "batches": [batch]}]}


def test_a_call_that_returns_at_once_is_no_wait_on_the_critical_path():
    at_once = {"per_step": 1.0, "waited_per_step": 0.0, "us_per_step": 1.0, "longest_us": 2.0}
    rows = found("bench.gpu_smoke", smoke(32, 0.98, waits(cudaEventSynchronize=at_once)))
    assert [(ours, met) for _, ours, met in rows] == [("98.0%", True), ("0 a step", True)]
    waited = at_once | {"waited_per_step": 0.25}
    rows = found("bench.gpu_smoke", smoke(32, 0.96, waits(cudaEventSynchronize=waited)))
    assert [(ours, met) for _, ours, met in rows] == [("96.0%", False), ("0.25 a step", False)]


def test_copies_of_memory_that_is_not_pinned_are_waits():
    ((_, ours, met),) = found("bench.gpu_smoke", smoke(256, 0.5, waits() | {"pageable_copies_per_step": 1}))
    assert (ours, met) == ("1 a step", False)  # how busy the GPU is has no bar at 256 rows


@pytest.mark.parametrize(
    ("words", "result", "met"),
    [
        ("bench.host_step", {"us": {"1": {"rank 0": 151.0}, "256": {"rank 0": 599.0}}}, [False, True]),
        ("bench.kernels", {"times": [{"shape": "a", "us": 400.0}, {"shape": "a", "us": 300.0}]}, [True]),
        ("bench.kernels", {"times": [{"shape": "a", "us": 400.0}, {"shape": "b", "exception": "x"}]}, [False]),
        (
            "bench.gpu_agreement",
            {"rows": [
                {"tp": 2, "dtype": "float32", "as_transformers": 199, "prompts": 200},
                {"tp": 2, "dtype": "bfloat16", "as_transformers": 134, "prompts": 200},
            ]},
            [False],
        ),
        (
            "bench.gpu_tests",
            {"runs": [{"folder": "f", "on": "GPU", "rc": 0, "tests": 9, "skipped": 2, "passed": 7}]},
            [True],
        ),
        ("bench.gpu_tests", {"runs": [{"folder": "f", "on": "GPU", "rc": 4}]}, [False]),
        ("bench.gpu_failures", {"rows": [{"case": "c", "broken": []}, {"case": "d", "broken": ["x"]}]}, [True, False]),
        (
            "bench.gpu_logits",
            {"bounds": {"float32": 1e-5}, "rows": [{"family": "f", "dtype": "float32", "ours_error": 1e-6, "ok": True}]},
            [True],
        ),
        (
            "bench.gpu_serving",
            {"runs": [{"shape": "s", "name": "c1", "figures": {
                "a": {"bar": 2.0, "ours": None, "met": False}, "b": {"bar": None, "ours": 1.0, "met": None},
            }}]},
            [False],
        ),
    ],
)  # fmt: skip
def test_figures_are_held_against_their_bars(words, result, met):
    assert [row[2] for row in found(words, result)] == met


def test_what_was_not_run_or_not_traced_shows_nothing():
    trial = {"shapes": [{"shape": "demo", "tp": 1, "batches": [{"rows": 1, "trace": "absent"}]}]}
    assert found("bench.gpu_smoke", trial) == []
    assert findings({"a": {"not_run": "needs 4 GPUs"}, "b": {"words": "bench.gpu_smoke x", "rc": 1}}) == []


def test_what_is_missed_stands_out_in_the_table():
    rows = {"words": "bench.host_step x", "result": {"us": {"1": {"rank 0": 151.0}}}}
    assert "MISSED" in show(findings({"host": rows}))
