from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from services.common.errors import DecodeError
from services.worker.engine.channel import HEADER, Channel, ChannelClosed, pack
from services.worker.engine.messages import Alive, CancelStreams, Shutdown, StepOutput


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def test_messages_arrive_in_order_however_their_bytes_were_cut(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    data = pack(CancelStreams([1, 2])) + pack(Alive()) + pack(Shutdown())
    found = []
    for at in range(0, len(data), 7):
        other.sendall(data[at : at + 7])
        found += channel.poll(0.0)
    assert found == [CancelStreams([1, 2]), Alive(), Shutdown()]


def test_polling_an_empty_channel_does_not_wait(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    assert channel.poll(0.0) == []


def test_a_closed_end_is_told(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    other.close()
    with pytest.raises(ChannelClosed):
        channel.poll(1.0)


def test_bytes_that_are_no_message_are_refused(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    other.sendall(HEADER.pack(3, 200) + b"abc")
    with pytest.raises(DecodeError):
        channel.poll(1.0)


def test_an_output_survives_the_way(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    output = StepOutput([1, 2], [0, 5], [1, 1], [7, 8], {1: 2}, admitted={1: 16}, stored=b"x" * 16)
    other.sendall(pack(output))
    assert channel.poll(1.0) == [output]
