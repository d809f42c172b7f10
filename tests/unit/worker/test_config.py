from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import ConfigError
from services.common.options import parse
from services.worker.config import engine_settings, runner_config


def test_flags_reach_the_runner_and_the_engine(tmp_path: Path) -> None:
    words = "--dtype bf16 --tp 2 --max-num-seqs 12 --batch_max_tokens 64 --chunked_prefill_size 100 --eos_id 3,-1,2"
    settings = parse("worker", [*words.split(), "--model_dir", str(tmp_path)], {})
    made = engine_settings(settings, "w")
    assert (made.runner.dtype, made.runner.tp, made.runner.max_slots) == ("bfloat16", 2, 12)
    assert (made.engine.max_step_tokens, made.engine.max_chunk_tokens) == (64, 64)
    assert made.engine.eos_ids == (2, 3)


def test_without_chunks_a_step_holds_a_whole_prompt(tmp_path: Path) -> None:
    words = ["--disable_chunked_prefill", "--chunked_prefill_size", "8", "--model_dir", str(tmp_path)]
    made = engine_settings(parse("worker", words, {}), "w").engine
    assert (made.can_chunk, made.max_chunk_tokens) == (False, made.max_step_tokens)


def test_a_missing_directory_and_a_wrong_id_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        runner_config(parse("worker", ["--model_dir", str(tmp_path / "none")], {}))
    with pytest.raises(ConfigError, match="--eos_id"):
        engine_settings(parse("worker", ["--model_dir", str(tmp_path), "--eos_id", "x"], {}), "w")
