"""When a host buffer may be written again."""

import numpy as np
import pytest
import torch

from services.worker.runner.staging import Staging


class Copy:
    """The event of a buffer's last copy."""

    def __init__(self, is_done: bool, buffer: torch.Tensor) -> None:
        self._is_done, self._buffer = is_done, buffer
        self.held_at_wait: list[int] = []

    def query(self) -> bool:
        return self._is_done

    def synchronize(self) -> None:
        self.held_at_wait += self._buffer.view(torch.int32)[:2].tolist()


@pytest.mark.parametrize("is_done", [False, True])
def test_a_buffer_is_written_after_its_last_copy(is_done: bool) -> None:
    staging = Staging({"ids": "int32"}, slice(0, 0), 64, torch.device("cpu"), depth=2)
    staging.pack([np.array([1, 2], np.int32)], (2,))
    copied = Copy(is_done, staging._host[0])
    staging._copied[0] = copied
    views = staging.pack([np.array([3, 4], np.int32)], (2,))
    assert copied.held_at_wait == ([] if is_done else [1, 2])
    assert views["ids"].tolist() == [3, 4]
