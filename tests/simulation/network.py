"""The network between the processes of a world: loses, doubles, delays and cuts off."""

from __future__ import annotations

import asyncio
import random

from tests.simulation.loop import current_process
from tests.simulation.plan import Noise


class Network:
    """Asked by the MemoryBroker about each (message, subscriber). Order is lost wherever delays differ."""

    def __init__(self, noise: Noise, noisy_until_s: float, rng: random.Random) -> None:
        self._noise, self._noisy_until_s, self._rng = noise, noisy_until_s, rng
        self.deaf: set[str] = set()  # names of processes that nothing reaches
        self.mute: set[str] = set()  # names of processes from which nothing comes
        self.num_lost = 0

    def deliveries(self, subject: str, client: str) -> tuple[float, ...]:
        """The delays in seconds of the copies to deliver to ``client``."""
        sender = current_process()
        if client in self.deaf or (sender is not None and sender.name in self.mute):
            return ()
        noise, rng = self._noise, self._rng
        if asyncio.get_running_loop().time() > self._noisy_until_s or not subject.endswith(noise.only):
            return (0.0,)
        if rng.random() < noise.lose:
            self.num_lost += 1
            return ()
        copies = 2 if rng.random() < noise.double else 1
        return tuple(
            rng.uniform(0.0, noise.max_delay_s) if rng.random() < noise.delay else 0.0 for _ in range(copies)
        )
