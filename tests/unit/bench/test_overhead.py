import random

from bench.overhead import ENGINE, Sample, compare, median_interval


def blocks(added_ms, count, seed, noise=0.3, of_processes=0.02):
    """Of three rounds each. Each round's machine is faster or slower by up to ``noise``, for both ways alike; the
    processes of a way differ from those of the other by up to ``of_processes`` for a block."""
    rng = random.Random(seed)
    for _ in range(count):
        block = {"more": [], "less": []}
        luck = {name: 1 + of_processes * rng.random() for name in block}
        for _ in range(3):
            pace = 1 + noise * rng.random()
            for name, added in (("more", added_ms), ("less", 0.0)):
                engine = pace * luck[name] * (0.8 + 0.02 * rng.random())
                around = pace * (luck[name] * 0.2 * (1 + 0.02 * rng.random()) + added)
                block[name].append(Sample(1000 / pace, {ENGINE: engine, "gateway": around}))
        yield block


def test_a_cost_of_a_hundredth_is_told_from_one_of_four_in_thirty_blocks():
    cheap, dear = (compare(list(blocks(added, 30, 1)), "more", "less") for added in (0.01, 0.04))
    for name in ("cpu", "cpu, if the engine's were the same"):
        assert (cheap[name]["under 1.02"], dear[name]["under 1.02"]) == ("shown", "missed")


def test_few_rounds_leave_it_undecided():
    assert compare(list(blocks(0.018, 2, 3)), "more", "less")["cpu"]["under 1.02"] == "undecided"


def test_rounds_of_the_same_processes_do_not_count_as_many():
    """What two processes differ by stays in every round of theirs, so more rounds of a block say nothing new."""
    rng = random.Random(5)
    few = [[rng.gauss(1, 0.05)] for _ in range(8)]
    many = [values * 20 for values in few]
    assert median_interval(few)[1:] == median_interval(many)[1:]


def test_the_interval_narrows_with_the_number_of_blocks():
    rng = random.Random(4)
    widths = []
    for count in (10, 100, 1000):
        middle, low, high = median_interval([[rng.gauss(1, 0.1)] for _ in range(count)], resamples=400)
        assert low <= middle <= high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
