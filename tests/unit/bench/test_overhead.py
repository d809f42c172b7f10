import random

from bench.overhead import ENGINE, Sample, compare, median_interval


def rounds(added_ms, count, seed, noise=0.3):
    """Pairs of samples: each round's machine is faster or slower by up to ``noise``, for both ways alike."""
    rng, pairs = random.Random(seed), []
    for _ in range(count):
        pace = 1 + noise * rng.random()
        engine = [pace * (0.8 + 0.02 * rng.random()) for _ in range(2)]
        around = [pace * 0.2 * (1 + 0.02 * rng.random()) for _ in range(2)]
        more = Sample(1000 / pace, {ENGINE: engine[0], "gateway": around[0] + pace * added_ms})
        pairs.append((more, Sample(1000 / pace, {ENGINE: engine[1], "gateway": around[1]})))
    return zip(*pairs, strict=True)


def test_a_cost_of_a_hundredth_is_told_from_one_of_four_in_fifty_noisy_rounds():
    cheap, dear = compare(*rounds(0.01, 50, 1)), compare(*rounds(0.04, 50, 2))
    for name in ("cpu", "cpu, if the engine's were the same"):
        assert (cheap[name]["under 1.02"], dear[name]["under 1.02"]) == ("shown", "missed")


def test_few_rounds_leave_it_undecided():
    assert compare(*rounds(0.018, 4, 3))["cpu"]["under 1.02"] == "undecided"


def test_the_interval_narrows_with_the_number_of_values():
    rng = random.Random(4)
    widths = []
    for count in (10, 100, 1000):
        middle, low, high = median_interval([rng.gauss(1, 0.1) for _ in range(count)], resamples=400)
        assert low <= middle <= high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
