"""What is drawn depends on the request alone, and each parameter does what it says, through the whole runner."""

from dataclasses import replace

import numpy as np
import pytest

from services.worker.errors import RunnerError
from services.worker.runner.interface import Runner
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan
from tests.fakes.naive_engine import Job, NaiveEngine

PROMPT = [5, 17, 300, 42, 8, 99, 120]
EVERYTHING = SlotSampling(
    temperature=1.3,
    top_p=0.95,
    top_k=80,
    min_p=0.001,
    seed=2**64 - 3,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
    logit_bias={7: 2.0, 8: -3.0},
    bad_words=[[11], [20, 21], [1, 2, 3]],
    min_tokens=10,
    stop_ids=[30, 31],
)
PLAIN = SlotSampling(temperature=1.0, seed=11)


def others(number: int) -> list[Job]:
    """A crowd with every kind of sampling, ragged and joining late."""
    random = np.random.default_rng(0)
    kinds = [SlotSampling(), PLAIN, EVERYTHING, SlotSampling(temperature=0.7, top_p=0.5, seed=4, logprobs=3)]
    return [
        Job(random.integers(0, 448, 3 + 5 * i).tolist(), 30, replace(kinds[i % 4], seed=i), join_at=i)
        for i in range(number)
    ]


def draw(runner: Runner, sampling: SlotSampling, tokens: int = 30, **job: object) -> list[int]:
    return NaiveEngine(runner).generate([Job(PROMPT, tokens, sampling, **job)])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [PLAIN, EVERYTHING], ids=["temperature", "everything"])
def test_tokens_are_the_same_alone_and_in_a_batch_of_16(runner, sampling):
    alone = draw(runner, sampling)
    assert len(set(alone)) > 5
    crowd = others(15)
    crowd.insert(6, Job(PROMPT, 30, sampling, join_at=3))
    assert NaiveEngine(runner, chunk_size=5).generate(crowd)[6] == alone


@pytest.mark.parametrize("sampling", [PLAIN, EVERYTHING], ids=["temperature", "everything"])
@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_resume_from_the_ids_so_far_goes_on_as_if_uninterrupted(runner, sampling, cut):
    whole = draw(runner, sampling)
    assert draw(runner, sampling, emitted=whole[:cut]) == whole[cut:]


def test_seeds_give_different_tokens(runner):
    assert draw(runner, PLAIN) != draw(runner, replace(PLAIN, seed=12))


def test_allowed_tokens_are_all_that_is_drawn(runner):
    allowed = [3, 64, 65, 447]
    drawn = draw(runner, SlotSampling(temperature=2.0, seed=1, allowed_token_ids=allowed))
    assert set(drawn) <= set(allowed)
    assert len(set(drawn)) > 1


def test_a_slot_forgets_the_allowed_tokens_of_the_sequence_before(runner):
    plain = draw(runner, PLAIN)
    draw(runner, SlotSampling(allowed_token_ids=[1]))
    assert draw(runner, PLAIN) == plain


def test_logit_bias_forces_and_forbids(runner):
    assert set(draw(runner, SlotSampling(logit_bias={123: 1e4}))) == {123}
    greedy = draw(runner, SlotSampling())
    assert greedy[0] not in draw(runner, SlotSampling(logit_bias={greedy[0]: float("-inf")}))


def test_stop_ids_wait_for_min_tokens(runner):
    forced = SlotSampling(logit_bias={9: 1e4}, min_tokens=6, stop_ids=[9, 10])
    drawn = draw(runner, forced, tokens=10)
    assert 9 not in drawn[:6]
    assert drawn[6:] == [9] * 4


def test_bad_words_of_several_tokens_are_never_completed(runner):
    bias = {40: 1000.0, 41: 1000.0, 42: 1000.0}  # draws 40, 41 and 42 only
    free = SlotSampling(temperature=20.0, seed=3, logit_bias=bias)
    words = [[40, 41], [42, 42, 42], [7]]
    text = draw(runner, free, tokens=120)
    assert has(text, [40, 41])
    assert has(text, [42, 42, 42])
    clean = draw(runner, replace(free, bad_words=words), tokens=120)
    assert not any(has(clean, word) for word in words)
    assert set(clean) == {40, 41, 42}


def has(text: list[int], word: list[int]) -> bool:
    return any(text[i : i + len(word)] == word for i in range(len(text)))


def test_bad_words_look_back_over_a_resume(runner):
    sampling = SlotSampling(logit_bias={50: 1e4, 51: 9e3}, bad_words=[[50, 50, 50]])
    assert draw(runner, sampling, tokens=8) == [50, 50, 51, 50, 50, 51, 50, 50]
    assert draw(runner, sampling, tokens=8, emitted=[50, 50]) == [51, 50, 50, 51, 50, 50]


def test_a_bad_word_over_the_limit_is_refused(runner):
    with pytest.raises(RunnerError, match="1 to 16 tokens, not 17"):
        draw(runner, SlotSampling(bad_words=[list(range(17))]))


def test_frequency_penalty_counts_every_token_so_far(runner):
    # Two tokens apart by 10; each use costs 4, so the first is used three times before the second is.
    sampling = SlotSampling(logit_bias={60: 1010.0, 61: 1000.0}, frequency_penalty=4.0)
    plain = draw(runner, replace(sampling, frequency_penalty=0.0), tokens=4)
    assert plain == [60] * 4
    drawn = draw(runner, sampling, tokens=12)
    assert {60, 61} == set(drawn)
    assert abs(drawn.count(60) - drawn.count(61)) <= 4


def test_repetition_penalty_covers_prompt_and_output(runner):
    # Everything but five tokens is far below; a used one falls far below the unused.
    sampling = SlotSampling(logit_bias=dict.fromkeys([70, 71, 72, 73, 74], 1e3), repetition_penalty=1.5)
    row = NaiveEngine(runner).generate([Job([*PROMPT, 72], 4, sampling)])[0]
    assert sorted(row) == [70, 71, 73, 74]


def test_logprobs_are_the_models_own_distribution(runner):
    row = NaiveEngine(runner).run([Job(PROMPT, 6, SlotSampling(temperature=3.0, seed=5, logprobs=512))])[0]
    for token, logprob, top in zip(row.drawn, row.logprobs, row.tops, strict=True):
        assert dict(top)[token] == pytest.approx(logprob, abs=1e-5)
        assert np.exp([value for _, value in top]).sum() == pytest.approx(1, abs=1e-4)
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)


def test_logprobs_are_absent_when_nobody_asks(runner):
    row = NaiveEngine(runner).run([Job(PROMPT, 3)])[0]
    assert (row.logprobs, row.tops) == ([], [])


def test_a_step_may_write_the_whole_block_table_of_every_slot(runner: Runner) -> None:
    info = runner.info
    columns = -(-info.max_model_len // info.block_size) + 1
    plan = StepPlan(0)
    for slot in range(info.max_slots):
        plan.starts.append(SlotStart(slot, SlotSampling()))
        plan.set_blocks(slot, 0, [slot + 1] * columns)
        plan.prefills.append(PrefillChunk(slot, 0, np.array(PROMPT, np.int32), samples=True))
    drawn = runner.launch(plan).result().token_ids.tolist()
    assert drawn == NaiveEngine(runner).generate([Job(PROMPT, 1)])[0] * info.max_slots
