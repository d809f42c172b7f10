"""The sampling kernels in Triton's interpreter (or on a GPU) against the reference, draw for draw."""

from dataclasses import replace

import pytest
import torch

from kernels.sampling import SamplingTensors, reference

pytest.importorskip("triton")
from kernels.sampling.launch import sample_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 4500  # two chunks, the second one ragged


def parameters(rows: int, **changes: object) -> SamplingTensors:
    def full(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device=DEVICE)

    base = SamplingTensors(
        temperature=full(1.0),
        top_p=full(1.0),
        top_k=full(0, torch.int32),
        min_p=full(0.0),
        seed=torch.arange(rows, device=DEVICE) * 7919 - 3,
        presence=full(0.0),
        frequency=full(0.0),
        repetition=full(1.0),
    )
    return replace(base, **changes)


def logits(rows: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return (3.0 * torch.randn(rows, VOCABULARY, generator=generator, device=DEVICE)).to(dtype)


def vector(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def check(scores: torch.Tensor, params: SamplingTensors, index: int = 5) -> None:
    token_index = torch.arange(index, index + scores.shape[0], device=DEVICE)
    found = sample_triton(scores, params, token_index, search_block=1024)
    expected = reference.sample(scores, params, token_index)
    assert found.ids.tolist() == expected.ids.tolist()
    if expected.logprobs is not None:
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
    if expected.top_ids is not None:
        torch.testing.assert_close(found.top_logprobs, expected.top_logprobs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_draws_with_temperature_equal_the_reference(seed: int, temperature: float) -> None:
    rows = 6
    check(
        logits(rows, seed=seed), parameters(rows, temperature=vector(*[temperature] * rows)), index=100 * seed
    )


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    scores = torch.zeros(3, VOCABULARY, device=DEVICE)
    scores[1, [4400, 17, 4099]] = 2.0
    scores[2, 4499] = 1.0
    params = parameters(3, temperature=vector(0, 0, 0), all_greedy=True)
    assert sample_triton(scores, params, torch.zeros(3, dtype=torch.long, device=DEVICE)).ids.tolist() == [
        0,
        17,
        4499,
    ]


def test_mixed_greedy_top_k_top_p_and_min_p_rows_equal_the_reference() -> None:
    rows = 8
    params = parameters(
        rows,
        temperature=vector(0.0, 0.7, 1.0, 1.5, 2.0, 1.0, 3.0, 0.9),
        top_p=vector(0.5, 0.9, 1.0, 0.3, 1.0, 0.05, 0.8, 0.0),
        top_k=vector(3, 0, 5, 50, 0, 0, 1, 0, dtype=torch.int32),
        min_p=vector(0, 0, 0, 0, 0.2, 0.01, 0, 0),
        any_top_p_k=True,
    )
    for seed in range(2):
        check(logits(rows, seed=seed), params, index=seed)


def test_tokens_tied_at_the_top_k_threshold_are_all_kept() -> None:
    scores = torch.full((200, VOCABULARY), -30.0, device=DEVICE)
    scores[:, [5, 60, 4200]] = 1.0
    params = parameters(200, top_k=torch.full((200,), 2, dtype=torch.int32, device=DEVICE), any_top_p_k=True)
    drawn = sample_triton(scores, params, torch.arange(200, device=DEVICE), search_block=1024).ids
    assert set(drawn.tolist()) == {5, 60, 4200}


def test_bias_masks_and_penalties_equal_the_reference() -> None:
    rows = 4
    generator = torch.Generator(DEVICE).manual_seed(1)
    counts = torch.randint(0, 3, (6, VOCABULARY), generator=generator, device=DEVICE, dtype=torch.int32)
    params = parameters(
        rows,
        temperature=vector(0.0, 1.0, 1.0, 0.5),
        slot=torch.tensor([5, 0, 3, 2], device=DEVICE),
        output_counts=counts,
        prompt_mask=torch.rand(6, VOCABULARY, generator=generator, device=DEVICE) < 0.3,
        presence=vector(0.5, 0.0, -0.4, 0.0),
        frequency=vector(0.1, 0.9, 0.0, 0.0),
        repetition=vector(1.3, 1.0, 0.8, 1.0),
        bias_start=torch.tensor([0, 2, 2, 3, 3], dtype=torch.int32, device=DEVICE),
        bias_ids=torch.tensor([7, 4300, 9], dtype=torch.int32, device=DEVICE),
        bias_values=vector(50.0, 3.0, -100.0),
        allowed_mask=torch.randint(
            -(2**31), 2**31 - 1, (rows, (VOCABULARY + 31) // 32), generator=generator, device=DEVICE
        ).int(),
        any_penalty=True,
        any_logit_bias=True,
        any_logprobs=True,
        max_top_logprobs=4,
    )
    check(logits(rows), params)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    scores = logits(5)
    params = parameters(5, any_logprobs=True)
    index = torch.arange(5, device=DEVICE)
    together = sample_triton(scores, params, index)
    for row in range(5):
        one = {
            name: getattr(params, name)[row : row + 1].clone()
            for name in (
                "temperature",
                "top_p",
                "top_k",
                "min_p",
                "seed",
                "presence",
                "frequency",
                "repetition",
            )
        }
        alone = sample_triton(scores[row : row + 1], replace(params, **one), index[row : row + 1])
        assert alone.ids.item() == together.ids[row].item()
        assert alone.logprobs.item() == together.logprobs[row].item()


def test_a_row_of_nan_or_without_allowed_tokens_gives_a_valid_id() -> None:
    scores = logits(2)
    scores[0] = float("nan")
    scores[1] = float("-inf")
    ids = sample_triton(scores, parameters(2), torch.arange(2, device=DEVICE)).ids
    assert bool(((ids >= 0) & (ids < VOCABULARY)).all())
