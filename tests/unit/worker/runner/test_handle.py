"""A step's result, read whenever the caller likes."""

import numpy as np
import pytest
import torch

from kernels.sampling import SampleOutput
from services.worker.runner.handle import DeviceHandle, ResultBuffers


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_a_result_read_late_is_still_its_steps_own(order):
    buffers, slots = ResultBuffers(4, torch.device("cpu"), 1), np.array([5, 2])
    drawn = torch.zeros(3, dtype=torch.int64)  # a captured graph's result: the next step overwrites it

    def launch(step: int) -> DeviceHandle:
        drawn.fill_(step)
        return DeviceHandle(step, slots, SampleOutput(drawn), buffers)

    handles = [launch(step) for step in range(4)]
    read = [handles[place].result() for place in order]
    again = [launch(step) for step in range(4, 8)]  # in the buffers of those that were read
    assert [result.step for result in read] == list(order)
    for handle in handles + again:
        result = handle.result()
        assert result.token_ids.tolist() == [result.step, result.step]  # without the row of padding
        assert result.slots.tolist() == [5, 2]


def test_a_step_that_draws_nothing_has_an_empty_result():
    result = DeviceHandle(1, np.empty(0, np.int64), None, ResultBuffers(2, torch.device("cpu"), 1)).result()
    assert result.token_ids.size == 0
    assert result.logprobs is None
