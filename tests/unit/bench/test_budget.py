import pytest

from bench.budget import BARS, FIGURES, FIRST_TOKEN, PER_TOKEN, WARM, Bar, find_bar, rows_of, show
from bench.gpu_serving import SERVED
from bench.shapes import DEMO, SHAPES
from services.cli.bench.workload import WORKLOADS


def run(name, **fields):
    return {"shape": "llama-3-8b", "tp": 1, "name": name, "num_failed": 0, **fields}


def test_times_meet_a_bar_from_below_and_rates_from_above():
    slow, fast = ({"tpot_ms": {"mean": t}, "ttft_ms": {"mean": 3 * t}} for t in (4.2, 4.0))
    assert [row.met for row in rows_of(run("c1", **slow))] == [False, False]
    assert [row.met for row in rows_of(run("c1", **fast))] == [True, True]
    for rate, met in ((3899.0, False), (3900.0, True)):
        (row,) = rows_of(run("c32", output_tokens_per_s=rate))
        assert (row.ours, row.bar, row.limit, row.met) == (rate, 3900, 5600, met)
    (row,) = rows_of(run(WARM, ready_s=15.1))
    assert (row.bar, row.met) == (15, False)


def test_a_shape_on_more_gpus_than_its_bars_are_for_has_none():
    (row,) = rows_of(run("c32", output_tokens_per_s=1.0) | {"tp": 2})
    assert (row.ours, row.bar, row.met) == (1.0, None, None)


@pytest.mark.parametrize(
    ("failure", "note"),
    [
        ({"num_failed": 1, "output_tokens_per_s": 9000.0}, "1 requests failed"),
        ({"error": "not run:\nthe minutes were over"}, "not run: the minutes were over"),
        (
            {"error": "ended with 1", "output_tokens_per_s": 9000.0, "compiled": 2},
            "2 kernels compiled; ended",
        ),
    ],
)
def test_a_run_in_which_something_failed_meets_no_bar_and_says_why(failure, note):
    (row,) = rows_of(run("c256", **failure))
    assert row.met is False
    assert note in show([row]).splitlines()[1]


def test_the_table_shows_what_was_measured_beside_bar_and_limit():
    rows = rows_of(run("c256", output_tokens_per_s=6497.3)) + rows_of(
        run("prefix", output_tokens_per_s=5726.5)
    )
    lines = [line.split() for line in show(rows).splitlines()]
    assert lines[1] == ["llama-3-8b", "1", "c256", "output", "tokens/s", "6,497", "6,900", "7,800", "missed"]
    assert lines[2] == ["llama-3-8b", "1", "prefix", "output", "tokens/s", "5,726", "5,200", "-", "met"]


def test_every_bar_is_measured_by_default():
    for bar in BARS:
        assert bar.figure in FIGURES[bar.workload]
        if bar.workload in WORKLOADS:
            assert bar.workload in SERVED[bar.shape].workloads
            assert bar.tp == SERVED[bar.shape].tp
    assert set(SERVED) == {*SHAPES, DEMO}
    assert find_bar("qwen2-32b", 4, "c1", PER_TOKEN) == Bar("qwen2-32b", 4, "c1", PER_TOKEN, 6.2, 4.5)
    assert find_bar("qwen3-0.6b", 1, "c1", FIRST_TOKEN) is None
