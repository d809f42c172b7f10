"""What a short run of the kernel benchmark changes of a GPU's table."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
import kernels.configs
from bench.kernels.choose import merge, write


def entry(max_tokens: int, kind: str) -> dict[str, object]:
    return {"max_tokens": max_tokens, "kind": kind}


def test_what_was_not_measured_stays() -> None:
    old = {
        "linear": {"a": [entry(1, "x"), entry(16, "y"), entry(64, "y")], "b": [entry(1, "z")]},
        "sampling": {},
    }
    new = {"linear": {"a": [entry(16, "w"), entry(32, "x")], "c": [entry(2, "x")]}}
    assert merge(old, new) == {
        "linear": {
            "a": [entry(1, "x"), entry(16, "w"), entry(32, "x"), entry(64, "y")],
            "b": [entry(1, "z")],
            "c": [entry(2, "x")],
        },
        "sampling": {},
    }


def test_neighbours_that_agree_are_one_entry() -> None:
    new = {"linear": {"a": [entry(16, "x"), entry(32, "y"), entry(64, "y")]}}
    assert merge({}, new) == {"linear": {"a": [entry(16, "x"), entry(64, "y")]}}
    assert merge({"linear": {"a": [entry(8, "x")]}}, new) == merge({}, new)


def test_a_table_is_written_as_it_was() -> None:
    text = Path(kernels.configs.__file__).with_name("NVIDIA_H200.json").read_text()
    assert write(json.loads(text)) == text
