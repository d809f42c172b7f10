"""The generator: the same for the same seed, and training values apart from evaluation values."""

import itertools

import pytest

from demo.data.core import Split, is_held_out
from demo.data.mix import SKILLS, WEIGHTS, evaluation_cases, training_cases

OPEN_SPACES = {"plain", "story", "table"}
"""Spaces where nothing is held out: free text, stories on request of no subject, the multiplication tables."""


def test_same_seed_gives_the_same_cases() -> None:
    first, second = (list(itertools.islice(training_cases(3), 300)) for _ in range(2))
    assert first == second
    assert evaluation_cases(3, 2) == evaluation_cases(3, 2)


def test_another_seed_gives_other_cases() -> None:
    assert list(itertools.islice(training_cases(1), 20)) != list(itertools.islice(training_cases(2), 20))


def test_every_skill_has_a_weight() -> None:
    assert set(SKILLS) == set(WEIGHTS)


def test_no_training_value_is_held_out() -> None:
    for case in itertools.islice(training_cases(0), 6000):
        if case.key[0] not in OPEN_SPACES:
            assert not is_held_out(*case.key), case.key


def test_every_evaluation_value_is_held_out() -> None:
    for case in evaluation_cases(0, 12):
        if case.key[0] not in OPEN_SPACES:
            assert is_held_out(*case.key), case.key


def test_no_prompt_of_the_evaluation_is_in_training() -> None:
    """Short prompts of small talk and stories aside, no evaluation question was seen word for word."""
    asked = {
        repr(case.messages) for case in itertools.islice(training_cases(0), 20_000) if case.skill != "stories"
    }
    assert not [
        case for case in evaluation_cases(0, 12) if case.skill != "stories" and repr(case.messages) in asked
    ]


@pytest.mark.parametrize("space", ["sum", "spell", "memory.name"])
def test_the_two_splits_share_a_space_completely(space: str) -> None:
    values = [str(i) for i in range(4000)]
    train = [v for v in values if Split.TRAIN.owns(space, v)]
    held_out = [v for v in values if Split.EVAL.owns(space, v)]
    assert sorted(train + held_out) == sorted(values)
    assert 0.09 < len(held_out) / len(values) < 0.16
