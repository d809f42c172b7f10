"""What sampling promises, shown on the reference: its distribution, its order of steps, its independence."""

import math

import pytest
import torch
from helpers import sampling_params

from kernels.sampling import sample
from kernels.sampling.noise import gumbel_noise, row_keys

DRAWS = 20_000


def expected_distribution(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """Probabilities [V] by the documented order, in float64, with a sort."""
    z = logits.double() / temperature
    probabilities = z.softmax(0)
    probabilities[probabilities < min_p * probabilities.max()] = 0
    if top_k:
        probabilities[probabilities < probabilities.sort(descending=True).values[top_k - 1]] = 0
    probabilities /= probabilities.sum()
    ordered = probabilities.sort(descending=True).values
    last = ordered[int((ordered.cumsum(0) < top_p).sum())] if top_p < 1 else 0
    probabilities[probabilities < last] = 0
    return probabilities / probabilities.sum()


def chi_square_p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Upper tail of Pearson's statistic, tokens expected less than 5 times pooled (Wilson-Hilferty)."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = torch.cat((counts[~rare], counts[rare].sum().reshape(1))).double()
    wanted = torch.cat((expected[~rare], expected[rare].sum().reshape(1)))
    keep = wanted > 0
    degrees = max(int(keep.sum()) - 1, 1)
    statistic = float(((observed - wanted)[keep] ** 2 / wanted[keep]).sum())
    normal = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return 0.5 * math.erfc(normal / math.sqrt(2))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.05},
        {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    ],
)
def test_draws_follow_the_documented_distribution(parameters: dict[str, float]) -> None:
    logits = torch.randn(60, generator=torch.Generator().manual_seed(1)) * 2
    params = sampling_params(
        DRAWS, "cpu", seed=torch.full((DRAWS,), 5), any_top_p_k=len(parameters) > 0, **parameters
    )
    ids = sample(logits.expand(DRAWS, -1), params, torch.arange(DRAWS)).ids
    counts = torch.bincount(ids, minlength=60)
    probabilities = expected_distribution(logits, **parameters)
    assert not counts[probabilities == 0].any()
    assert chi_square_p_value(counts, probabilities) > 1e-3


def test_flat_draws_over_a_large_vocabulary_are_uniform() -> None:
    vocabulary, draws = 1 << 14, 640
    params = sampling_params(draws, "cpu", seed=torch.arange(draws))
    ids = sample(torch.zeros(draws, vocabulary), params, torch.arange(draws)).ids
    counts = torch.bincount(ids // (vocabulary // 64), minlength=64)
    assert chi_square_p_value(counts, torch.full((64,), 1 / 64, dtype=torch.float64)) > 1e-3


def test_a_row_depends_on_nothing_but_itself() -> None:
    torch.manual_seed(0)
    logits, seeds, indices = torch.randn(12, 300), torch.randint(0, 1 << 62, (12,)), torch.arange(12) * 1000
    options = {"top_p": 0.9, "any_top_p_k": True}
    together = sample(logits, sampling_params(12, "cpu", seed=seeds, **options), indices).ids
    order = torch.randperm(12)
    shuffled = sample(
        logits[order], sampling_params(12, "cpu", seed=seeds[order], **options), indices[order]
    ).ids
    assert torch.equal(shuffled, together[order])
    for row in range(12):
        alone = sampling_params(1, "cpu", seed=seeds[row : row + 1], **options)
        assert sample(logits[row : row + 1], alone, indices[row : row + 1]).ids == together[row]


def test_temperature_zero_takes_the_lowest_of_equal_maxima() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 0.0, 0.0, 2.0]])
    for greedy in (True, False):
        params = sampling_params(2, "cpu", temperature=0.0, all_greedy=greedy)
        assert sample(logits, params, torch.zeros(2, dtype=torch.long)).ids.tolist() == [1, 0]


def test_ties_at_the_threshold_are_kept() -> None:
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0]).expand(400, -1)
    for options in ({"top_k": 2}, {"top_p": 0.6}):
        params = sampling_params(400, "cpu", any_top_p_k=True, **options)
        assert set(sample(logits, params, torch.arange(400)).ids.tolist()) == {0, 1, 2, 3}


def test_bias_masks_and_penalties_apply_in_order_before_the_draw() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5, 4.0, 2.0]])
    params = sampling_params(
        1, "cpu", temperature=0.0, presence=0.25, frequency=0.5, repetition=2.0,
        slot=torch.tensor([1]),
        output_counts=torch.tensor([[9, 9, 9, 9, 9], [2, 0, 0, 0, 0]], dtype=torch.int16),
        prompt_mask=torch.tensor([[True] * 5, [False, True, False, False, True]]),
        bias_start=torch.tensor([0, 2], dtype=torch.int32), bias_ids=torch.tensor([0, 2], dtype=torch.int32),
        bias_values=torch.tensor([7.0, 0.25]), allowed_mask=torch.tensor([[0b10111]], dtype=torch.int32),
        any_penalty=True, any_logit_bias=True, any_logprobs=True, max_top_logprobs=2,
    )  # fmt: skip
    from kernels.sampling.reference import process

    scores = process(logits.clone(), params)
    # id 0: (1 + 7) / 2 - 2 * 0.5 - 0.25; 1: -1 * 2; 2: bias only; 3: not allowed; 4: 2 / 2
    assert scores.tolist() == [[2.75, -2.0, 0.75, -math.inf, 1.0]]
    out = sample(logits, params, torch.zeros(1, dtype=torch.long))
    raw = logits.log_softmax(-1)
    assert out.ids.tolist() == [0]
    assert torch.allclose(out.logprobs, raw[:, 0])
    assert out.top_ids.tolist() == [[3, 4]]
    assert torch.allclose(out.top_logprobs, raw[:, [3, 4]])
    assert logits.tolist() == [[1.0, -1.0, 0.5, 4.0, 2.0]]


def test_noise_has_the_moments_of_a_gumbel() -> None:
    low, high = row_keys(torch.tensor([3]), torch.tensor([9]))
    noise = gumbel_noise(torch.arange(1 << 20, dtype=torch.int32), low, high).double()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=5e-3)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=1e-2)


def test_neighbouring_seeds_and_indices_share_no_noise() -> None:
    ids = torch.arange(1 << 14, dtype=torch.int32)
    rows = [
        gumbel_noise(ids, *row_keys(torch.tensor([s]), torch.tensor([i]))) for s in (0, 1) for i in (0, 1, 2)
    ]
    correlation = torch.corrcoef(torch.stack(rows).double()) - torch.eye(len(rows))
    assert float(correlation.abs().max()) < 0.04
