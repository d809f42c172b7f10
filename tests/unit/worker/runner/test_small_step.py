"""The least step with chunks: from which size on the device, not the host's launching, takes the time."""

from services.worker.engine.engine import scheduler_limits
from services.worker.engine.requests import EngineConfig
from services.worker.runner.interface import RunnerInfo
from services.worker.runner.load import least_busy_step


def test_the_first_size_that_outlasts_its_launch():
    assert least_busy_step({512: (0.009, 0.014), 1024: (0.009, 0.026)}) == 512
    assert least_busy_step({512: (0.020, 0.021), 1024: (0.020, 0.036), 2048: (0.020, 0.05)}) == 1024


def test_the_largest_where_every_launch_takes_longer():
    assert least_busy_step({512: (0.008, 0.008), 1024: (0.008, 0.009)}) == 1024


def test_the_scheduler_gets_what_was_measured():
    info = RunnerInfo(100, 16, 64, 1024, 8192, 512, (), "x", "bfloat16", "cuda:0", 1, small_mixed_step=2048)
    limits = scheduler_limits(info, EngineConfig())
    assert limits.prefill_budget(4) == 2044
