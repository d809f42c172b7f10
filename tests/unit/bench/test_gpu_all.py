import importlib
import shlex

import pytest

from bench.gpu_all import PARTS, Part, parse, pick, run, words_of

NAMES = [part.name for part in PARTS]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        pytest.param(p, w, id=f"{p.name}{' trial' * (w is p.trial)}")
        for p in PARTS
        for w in (p.words, p.trial)
        if w
    ],
)
def test_each_script_understands_the_words_it_is_run_with(part, words):
    module, *given = shlex.split(words.format(json="results.json"))
    if module == "bench.kernels":
        pytest.skip("parses its words in main()")
    script = importlib.import_module(module)
    assert str(script.parse(given).json) == "results.json"


def test_the_machine_decides_which_parts_are_run():
    assert len(set(NAMES)) == len(NAMES)
    assert {part.gpus for part in pick([], 1)} == {1}
    assert {part.gpus for part in pick([], 2)} == {2}
    assert {part.gpus for part in pick([], 4)} == {2, 4}
    assert pick([], 0) == list(PARTS)
    assert [part.name for part in pick(["logits", "sums-tp4"], 1)] == ["logits", "sums-tp4"]


def test_what_a_machine_cannot_show_is_absent_and_not_run():
    part = Part("all-reduce", "bench.all_reduce", 60, gpus=4)
    assert words_of(part, 4) == ("bench.all_reduce", "")
    assert words_of(part, 1) == (None, "needs 4 GPUs, found 1")
    words, reason = words_of(part, 0)
    assert words is None
    assert reason.startswith("absent")
    assert words_of(Part("logits", "full", 60, trial="small"), 0) == ("small", "")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["--out", "x", "--only", "no-such-part"])
    assert "serving-8b" in capsys.readouterr().err


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes a module that gpu_all can run, and returns its name."""

    def make(source):
        (tmp_path / "a_part.py").write_text("import json, pathlib, sys, time\n" + source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "a_part {json}"

    return make


def test_a_part_that_succeeds_leaves_its_results(script, tmp_path):
    words = script("pathlib.Path(sys.argv[1]).write_text(json.dumps({'figure': 1}))")
    found = run(words, 60, tmp_path / "r.json", tmp_path / "log")
    assert (found["rc"], found["result"]) == (0, {"figure": 1})
    assert "tail" not in found


def test_a_part_that_fails_leaves_the_end_of_what_it_said(script, tmp_path):
    (tmp_path / "log").write_text("of an earlier part\n")
    found = run(script("sys.exit('no such kernel')"), 60, tmp_path / "r.json", tmp_path / "log")
    assert found["rc"] == 1
    assert "no such kernel" in found["tail"]
    assert "earlier" not in found["tail"]
    assert "result" not in found


def test_a_part_that_takes_too_long_is_stopped_and_keeps_what_it_wrote(script, tmp_path):
    words = script("pathlib.Path(sys.argv[1]).write_text('[1]')\ntime.sleep(600)")
    found = run(words, 3, tmp_path / "r.json", tmp_path / "log")
    assert found["rc"] == "stopped after 3 s"
    assert found["result"] == [1]


def test_a_part_that_is_stopped_while_it_writes_does_not_end_the_others(script, tmp_path):
    words = script("pathlib.Path(sys.argv[1]).write_text('[1, ')\nsys.exit(1)")
    found = run(words, 60, tmp_path / "r.json", tmp_path / "log")
    assert found["rc"] == 1
    assert "line 1" in found["unreadable"]
    assert "result" not in found
