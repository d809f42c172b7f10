"""A model of how ranks meet in `kernels/rank_sum/kernel.py`, small enough to try every order of what they do.

It follows `meet` and `rank_sum_rms_norm_kernel` line by line, with the names they use; who changes one changes the
other. A rank's stream runs, for each call: a product, which reads the normalised rows of the call before and writes
partial results to the call's area; then the programs of the sum, side by side. Kernels of a stream follow one another.

Memory holds, instead of numbers, the call that wrote them: what comes at a wrong moment shows as a wrong call in what
is read. Reads and writes that a program does without waiting in between count as one step: each of them conflicts with
a step of another rank that waits for none of them, so either order of the two is tried all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernels.rank_sum.reference import share_of


@dataclass(frozen=True)
class Call:
    """One call of `rank_sum_rms_norm` on every rank."""

    tokens: int
    area: int
    shared_out: bool


@dataclass(frozen=True)
class Protocol:
    """What the kernel does; the tests change parts of it, to see that the model finds out."""

    ranks: int
    max_programs: int = 2
    slots: tuple[int, int] = (0, 1)
    second_meeting: bool = True

    def programs(self, call: Call) -> int:
        return min(-(-call.tokens // self.ranks) if call.shared_out else call.tokens, self.max_programs)


# What is done, and to what: see `World.act`.
Action = tuple[str, tuple[int, ...]]
Step = tuple[Action, ...]
# Groups that come one after another; the steps of a group in any order.
Program = list[tuple[Step, ...]]


def meet(protocol: Protocol, rank: int, program: int, slot: int, meeting: int) -> Program:
    """`meet`: one thread per rank signals, in any order. Signals are taken all at once, when the last is there: what may
    go wrong is that one is taken late, and nobody waits for it to be taken.
    """
    slot = protocol.slots[slot]
    ranks = range(protocol.ranks)
    signals = tuple((("signal", (other, program, slot, rank, meeting)),) for other in ranks)
    return [signals, (tuple(("take", (rank, program, slot, other, meeting)) for other in ranks),)]


def sum_program(protocol: Protocol, call: Call, number: int, rank: int, program: int) -> Program:
    """`rank_sum_rms_norm_kernel`: one program of call `number`."""
    if call.shared_out:
        share = share_of(rank, protocol.ranks, call.tokens)
        first, last = share.start, share.stop
    else:
        first, last = 0, call.tokens
    ranks, programs = range(protocol.ranks), protocol.programs(call)
    rows: list[Action] = []
    first += program
    if call.shared_out and first < last:
        rows += [("read partial", (other, call.area, first, number)) for other in ranks]
    for index in range(first, last, programs):
        following = index + programs if call.shared_out else index
        if following < last:
            rows += [("read partial", (other, call.area, following, number)) for other in ranks]
        targets = [(rank + 1 + ahead) % protocol.ranks for ahead in ranks] if call.shared_out else [rank]
        rows += [("write normalised", (target, index, number)) for target in targets]
    before = meet(protocol, rank, program, 0 if call.shared_out else call.area, 2 * number)
    after = (
        meet(protocol, rank, program, 1, 2 * number + 1)
        if call.shared_out and protocol.second_meeting
        else []
    )
    return [*before, (tuple(rows),), *after]


def product(rank: int, calls: list[Call], number: int) -> Program:
    """The product before call `number`; after the last call, what reads its result."""
    done: list[Action] = []
    if number:
        done += [("read normalised", (rank, i, number - 1)) for i in range(calls[number - 1].tokens)]
    if number < len(calls):
        area = calls[number].area
        done += [("write partial", (rank, area, i, number)) for i in range(calls[number].tokens)]
    return [(tuple(done),)]


class Wrong(AssertionError):
    """An order of actions breaks the protocol."""


# Of each rank: the kernel it runs, and of each program of that the group it is at and those of its actions done.
Place = tuple[int, tuple[tuple[int, frozenset[int]], ...]]
Memory = frozenset[tuple[tuple[str | int, ...], int]]


class World:
    """`protocol.ranks` ranks that make `calls`."""

    def __init__(self, protocol: Protocol, calls: list[Call]) -> None:
        self.streams: list[list[list[Program]]] = []
        """[rank][kernel][program]"""
        for rank in range(protocol.ranks):
            stream = []
            for number, call in enumerate(calls):
                stream.append([product(rank, calls, number)])
                programs = range(protocol.programs(call))
                stream.append([sum_program(protocol, call, number, rank, p) for p in programs])
            self.streams.append([*stream, [product(rank, calls, len(calls))]])

    def explore(self) -> int:
        """Goes through every order of the ranks' actions; how many states there are. Raises Wrong."""
        start = (tuple(self._begin(rank, 0) for rank in range(len(self.streams))), Memory())
        seen, todo = {start}, [start]
        while todo:
            places, memory = todo.pop()
            following = list(self._following(places, memory))
            if not following and any(
                kernel < len(self.streams[rank]) for rank, (kernel, _) in enumerate(places)
            ):
                raise Wrong(f"ranks wait for ever at {places}")
            fresh = {state for state in following if state not in seen}
            seen |= fresh
            todo += fresh
        return len(seen)

    def _begin(self, rank: int, kernel: int) -> Place:
        programs = self.streams[rank][kernel] if kernel < len(self.streams[rank]) else []
        return kernel, tuple((0, frozenset[int]()) for _ in programs)

    def _following(
        self, places: tuple[Place, ...], memory: Memory
    ) -> Iterator[tuple[tuple[Place, ...], Memory]]:
        for rank, (kernel, programs) in enumerate(places):
            for number, (group, done) in enumerate(programs):
                code = self.streams[rank][kernel][number]
                if group == len(code):
                    continue
                for index, step in enumerate(code[group]):
                    changed = None if index in done else act(step, dict(memory))
                    if changed is None:
                        continue
                    now = done | {index}
                    at = (group + 1, frozenset[int]()) if len(now) == len(code[group]) else (group, now)
                    moved = (*programs[:number], at, *programs[number + 1 :])
                    ended = all(g == len(self.streams[rank][kernel][p]) for p, (g, _) in enumerate(moved))
                    place = self._begin(rank, kernel + 1) if ended else (kernel, moved)
                    yield (*places[:rank], place, *places[rank + 1 :]), frozenset(changed.items())


Cells = dict[tuple[str | int, ...], int]


def act(step: Step, memory: Cells) -> Cells | None:
    """Memory after the step, or None while it has to wait. Raises Wrong where it comes at a wrong moment."""
    for what, (*where, number) in step:
        if what == "signal":
            if ("signal", *where) in memory:
                raise Wrong(f"signal {where} of meeting {number} is given before the last one was taken")
            memory["signal", *where] = number
        elif what == "take":
            given = memory.pop(("signal", *where), None)
            if given is None:
                return None
            if given != number:
                raise Wrong(f"meeting {number} is passed by the signal {where} of meeting {given}")
        elif what.startswith("write"):
            memory[what.removeprefix("write "), *where] = number
        else:
            found = memory.get((what.removeprefix("read "), *where))
            if found != number:
                raise Wrong(f"{what} {where} of call {number} finds what call {found} wrote")
    return memory
