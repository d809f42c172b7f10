"""A runner over a tiny model, shared by the tests of a module: its state is reset by each slot's start."""

from collections.abc import Iterator

import pytest

from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.start import start_runner
from tests.fakes.tiny_model import make_model


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    model_dir = make_model(tmp_path_factory.mktemp("model"), "qwen3")
    config = RunnerConfig(
        str(model_dir), device="cpu", max_slots=20, max_total_token_num=4096, max_model_len=512, cpu_threads=1
    )
    runner = start_runner(config)
    yield runner
    runner.close()
