import pytest

from services.common.messages.events import WorkerLoad
from services.worker.control.load import LoadTracker


@pytest.mark.parametrize(
    ("told", "now", "is_news"),
    [
        (WorkerLoad(max_running=64), WorkerLoad(max_running=64), False),
        (WorkerLoad(running=1, max_running=64), WorkerLoad(running=3, max_running=64), False),
        (WorkerLoad(running=1, max_running=64), WorkerLoad(running=5, max_running=64), True),
        (WorkerLoad(running=64, waiting=1, max_running=64), WorkerLoad(running=64, max_running=64), True),
        (WorkerLoad(free_blocks=90, total_blocks=160), WorkerLoad(free_blocks=80, total_blocks=160), True),
        (WorkerLoad(waiting_prefill_tokens=100), WorkerLoad(waiting_prefill_tokens=60), False),
        (WorkerLoad(waiting_prefill_tokens=100), WorkerLoad(waiting_prefill_tokens=40), True),
    ],
)
def test_routers_hear_early_of_loads_that_change_their_choice(told, now, is_news):
    tracker = LoadTracker()
    for load in (told, now):
        load.total_blocks = load.total_blocks or 1000
        load.free_blocks = load.free_blocks or 1000
    tracker.on_told(told)
    assert tracker.is_news(now) is is_news
