"""How ranks meet in the sum over ranks, in every order of what they do: see `meeting_model`."""

from dataclasses import replace

import pytest
import torch
from meeting_model import Call, Protocol, World, Wrong

from kernels.rank_sum import MAX_PROGRAMS, PeerMemory, programs_that_fit

FEW, SHARED = False, True
# With one area, partial results and signals of two calls meet: which is found first is of no interest.
EITHER = "read partial|before the last one was taken"


def pairs(*steps: tuple[int, bool]) -> list[Call]:
    """Calls of so many tokens, each in both areas, as a step's layers make them."""
    return [Call(tokens, area, shared) for tokens, shared in steps for area in (0, 1)]


@pytest.mark.parametrize(
    ("protocol", "steps"),
    [
        (Protocol(2, 1), [(1, FEW), (3, SHARED), (2, FEW), (5, SHARED), (4, SHARED)]),
        (Protocol(2, 2), [(1, FEW), (3, FEW), (1, FEW)]),
        (Protocol(2, 2), [(3, SHARED), (1, FEW)]),
        (Protocol(2, 2), [(1, SHARED), (3, SHARED)]),
        (Protocol(3, 1), [(1, FEW), (2, SHARED), (1, FEW)]),
        (Protocol(3, 1), [(4, SHARED), (1, SHARED)]),
    ],
)
def test_ranks_meet_read_what_was_written_for_them_and_none_waits_for_ever(
    protocol: Protocol, steps: list[tuple[int, bool]]
) -> None:
    assert World(protocol, pairs(*steps)).explore() > 100


@pytest.mark.parametrize(
    ("change", "calls", "found"),
    [
        ({"slots": (0, 0)}, pairs((1, FEW)), "before the last one was taken"),
        ({"slots": (0, 0)}, pairs((2, SHARED)), "before the last one was taken"),
        ({"second_meeting": False}, pairs((2, SHARED)), "read normalised"),
        ({}, [Call(1, 0, FEW), Call(1, 0, FEW)], EITHER),
        ({}, [Call(1, 0, FEW), Call(1, 0, SHARED)], EITHER),
        ({}, [Call(1, 1, FEW), Call(1, 0, FEW), Call(1, 0, SHARED)], EITHER),
    ],
)
def test_the_model_finds_what_a_weaker_protocol_gets_wrong(
    change: dict[str, object], calls: list[Call], found: str
) -> None:
    world = World(replace(Protocol(2, 1), **change), calls)
    with pytest.raises(Wrong, match=found):
        world.explore()


def test_ranks_of_unequal_numbers_of_programs_wait_for_ever() -> None:
    world = World(Protocol(2, 2), pairs((2, FEW)))
    fewer = World(Protocol(2, 1), pairs((2, FEW)))
    world.streams[1] = fewer.streams[1]
    with pytest.raises(Wrong, match="wait for ever"):
        world.explore()


def test_no_more_programs_are_launched_than_run_at_once() -> None:
    # An H200 has 132 multiprocessors, an A100 108, an RTX 3060 28; the least of the ranks' GPUs counts.
    assert [programs_that_fit(count) for count in (132, 108, 28, 1)] == [MAX_PROGRAMS, 108, 28, 1]
    memory = PeerMemory(torch.zeros(4, dtype=torch.int64), torch.zeros(1), 0, 0, programs_that_fit(108))
    assert [memory.programs(tokens, shared_out=True) for tokens in (1, 5, 430, 9999)] == [1, 2, 108, 108]
    assert [memory.programs(tokens, shared_out=False) for tokens in (1, 5, 430)] == [1, 5, 108]
