"""Sampling kernels in Triton's interpreter (or on a GPU) against the reference."""

import pytest
import torch
from helpers import DEVICE, HALF, sampling_params

from kernels.sampling import SamplingTensors, noise, reference

pytest.importorskip("triton")
import triton
import triton.language as tl

from kernels.sampling.launch import SamplingConfig, find_candidates, process_triton, sample_triton
from kernels.sampling.noise_kernel import gumbel_noise, row_key

ROWS, VOCABULARY, CHUNK = 6, 300, 128
IS_INTERPRETED = DEVICE == "cpu"  # which takes a second for a row
CONFIG = SamplingConfig(chunk=CHUNK, warps=4, group=32, capacity=64)
# Lists this short overflow, so that restricted rows are narrowed.
NARROWING = SamplingConfig(chunk=CHUNK, warps=4, group=32, capacity=1)


def mixed_params(**options: object) -> SamplingTensors:
    """Each row of another kind: greedy, plain, top-k, top-p, min-p, all of them."""
    return sampling_params(
        ROWS,
        temperature=torch.tensor([0.0, 0.7, 1.0, 1.3, 1.0, 0.9]),
        top_k=torch.tensor([0, 0, 5, 0, 0, 40]),
        top_p=torch.tensor([1.0, 1.0, 1.0, 0.8, 1.0, 0.95]),
        min_p=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.1, 0.02]),
        seed=torch.tensor([1, 2, -3, 1 << 60, 5, 6]),
        any_top_p_k=True,
        **options,
    )


def processors() -> dict[str, object]:
    generator = torch.Generator().manual_seed(3)
    return {
        "presence": 0.3,
        "frequency": 0.2,
        "repetition": 1.2,
        "slot": torch.tensor([3, 0, 5, 1, 2, 4], device=DEVICE),
        "output_counts": torch.randint(0, 3, (6, VOCABULARY), generator=generator).to(DEVICE, torch.int16),
        "prompt_mask": (torch.rand(6, VOCABULARY, generator=generator) < 0.3).to(DEVICE),
        "bias_start": torch.tensor([0, 2, 2, 3, 3, 3, 5], dtype=torch.int32, device=DEVICE),
        "bias_ids": torch.tensor([7, 9, 299, 0, 128], dtype=torch.int32, device=DEVICE),
        "bias_values": torch.tensor([5.0, -5.0, 3.0, 2.0, 1.0], device=DEVICE),
        "allowed_mask": torch.randint(-(1 << 31), 1 << 31, (6, 10), generator=generator).to(
            DEVICE, torch.int32
        ),
        "any_penalty": True,
        "any_logit_bias": True,
    }


def random_logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(4)) * 3).to(DEVICE, dtype)


@triton.jit
def noise_kernel(seed_ptr, index_ptr, out_ptr, COUNT: tl.constexpr):
    ids = tl.arange(0, COUNT)
    tl.store(out_ptr + ids, gumbel_noise(ids, row_key(tl.load(seed_ptr), tl.load(index_ptr))))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_noise_of_kernel_and_reference_agree(seed: int) -> None:
    seeds, index = torch.tensor([seed], device=DEVICE), torch.tensor([12345], device=DEVICE)
    out = torch.empty(4096, device=DEVICE)
    noise_kernel[(1,)](seeds, index, out, 4096)
    ids = torch.arange(4096, dtype=torch.int32, device=DEVICE)
    torch.testing.assert_close(
        out, noise.gumbel_noise(ids, *noise.row_keys(seeds, index)), rtol=3e-5, atol=3e-5
    )


@pytest.mark.parametrize("config", [CONFIG, NARROWING], ids=["candidates", "narrowing"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("with_processors", [False, True])
def test_sample_draws_what_the_reference_draws(
    dtype: torch.dtype, with_processors: bool, config: SamplingConfig
) -> None:
    logits = random_logits(dtype)
    params = mixed_params(any_logprobs=True, max_top_logprobs=3, **(processors() if with_processors else {}))
    for step in (1,) if IS_INTERPRETED else range(3):
        index = torch.arange(ROWS, device=DEVICE) + 100 * step
        out, answer = sample_triton(logits, params, index, config), reference.sample(logits, params, index)
        assert out.ids.tolist() == answer.ids.tolist()
        torch.testing.assert_close(out.logprobs, answer.logprobs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.top_logprobs, answer.top_logprobs, rtol=1e-5, atol=1e-5)


def test_sample_without_flags_draws_what_the_reference_draws() -> None:
    logits, index = random_logits(), torch.arange(ROWS, device=DEVICE)
    for params in (
        sampling_params(ROWS, temperature=0.8, seed=torch.arange(ROWS)),
        sampling_params(ROWS, temperature=0.0, all_greedy=True),
    ):
        out, answer = sample_triton(logits, params, index, CONFIG), reference.sample(logits, params, index)
        assert out.ids.tolist() == answer.ids.tolist()
        assert out.logprobs is None


HARD_LOGITS = {
    "equal": lambda normal: normal * 0.0,
    "two values": lambda normal: (normal > 1.5) * 4.0,
    "descending": lambda normal: (normal * 2.0).sort(dim=1, descending=True).values,
    "few allowed": lambda normal: torch.where(normal > 1.5, normal, float("-inf")),
    "one sure": lambda normal: torch.where(normal == normal.amax(1, keepdim=True), 40.0, normal),
}


@pytest.mark.parametrize("kind", HARD_LOGITS)
@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"top_k": 5},
        {"top_k": 299, "min_p": 0.01},
        {"top_k": 40, "top_p": 0.6, "temperature": 0.7},
        {"top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
    ],
)
def test_restricted_draws_of_hard_logits_are_the_references(kind: str, options: dict[str, float]) -> None:
    rows = 2 if IS_INTERPRETED else ROWS
    logits = HARD_LOGITS[kind](random_logits()[:rows] / 3)
    params = sampling_params(rows, seed=torch.arange(rows), any_top_p_k=True, **options)
    index = torch.arange(rows, device=DEVICE)
    drawn = sample_triton(logits, params, index, CONFIG).ids
    assert drawn.tolist() == reference.sample(logits, params, index).ids.tolist()


def test_ordinary_rows_need_no_narrowing() -> None:
    rows, groups = 4, 3 * (CHUNK // CONFIG.group)
    logits, index = random_logits()[:rows], torch.arange(rows, device=DEVICE)
    padded = torch.nn.functional.pad(logits, (0, 3 * CHUNK - VOCABULARY), value=float("-inf"))
    maxima = padded.unflatten(1, (groups, CONFIG.group)).amax(2)
    params = sampling_params(
        rows,
        top_k=torch.tensor([5, 0, 0, 5]),
        top_p=torch.tensor([1.0, 0.9, 1.0, 0.8]),
        min_p=torch.tensor([0.0, 0.0, 0.1, 0.0]),
        any_top_p_k=True,
    )
    highest = maxima.unflatten(1, (3, -1)).amax(2)
    winner, _, contender, _ = find_candidates(logits, params, index, highest, maxima, CONFIG)
    answer = reference.sample(logits, params, index).ids.tolist()
    assert [winner[row].item() for row in (0, 2, 3)] == [answer[row] for row in (0, 2, 3)]
    assert answer[1] in contender[1, 1:].tolist()


def test_processed_scores_match_the_reference() -> None:
    logits, params = random_logits(), mixed_params(**processors())
    answer = reference.process(logits.clone(), params)
    torch.testing.assert_close(process_triton(logits, params, CHUNK), answer, rtol=1e-6, atol=1e-6)


def test_rows_of_one_token_and_of_equal_tokens() -> None:
    logits = torch.full((3, 200), float("-inf"), device=DEVICE)
    logits[0, 199] = -2.0
    logits[1] = 1.0
    params = sampling_params(
        3, top_k=torch.tensor([4, 4, 0]), top_p=torch.tensor([0.5, 0.5, 0.9]), any_top_p_k=True
    )
    index = torch.arange(3, device=DEVICE)
    out = sample_triton(logits, params, index, CONFIG).ids
    assert out.tolist()[:2] == reference.sample(logits, params, index).ids.tolist()[:2]
    assert 0 <= int(out[2]) < 200


def test_greedy_takes_the_lowest_id_among_equals_of_any_chunk() -> None:
    scores = torch.zeros(3, VOCABULARY, device=DEVICE)
    scores[1, [290, 17, 130]] = 2.0
    scores[2, 299] = 1.0
    params = sampling_params(3, temperature=0.0, all_greedy=True)
    index = torch.zeros(3, dtype=torch.long, device=DEVICE)
    assert sample_triton(scores, params, index, CONFIG).ids.tolist() == [0, 17, 299]


def test_tokens_tied_at_the_top_k_threshold_are_all_kept() -> None:
    rows = 16
    scores = torch.full((rows, VOCABULARY), -30.0, device=DEVICE)
    scores[:, [5, 60, 290]] = 1.0
    params = sampling_params(rows, top_k=2, any_top_p_k=True)
    drawn = sample_triton(scores, params, torch.arange(rows, device=DEVICE), CONFIG).ids
    assert set(drawn.tolist()) == {5, 60, 290}


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    scores, index, seeds = random_logits(), torch.arange(ROWS, device=DEVICE), torch.arange(ROWS)
    options = {"top_p": 0.9, "any_top_p_k": True, "any_logprobs": True}
    together = sample_triton(scores, sampling_params(ROWS, seed=seeds, **options), index, CONFIG)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = sample_triton(scores[one], sampling_params(1, seed=seeds[one], **options), index[one], CONFIG)
        assert alone.ids.item() == together.ids[row].item()
        assert alone.logprobs.item() == together.logprobs[row].item()


@pytest.mark.parametrize("options", [{}, {"top_p": 0.5, "any_top_p_k": True}])
def test_a_row_of_nan_or_without_allowed_tokens_gives_a_valid_id(options: dict[str, object]) -> None:
    scores = random_logits()[:2]
    scores[0], scores[1] = float("nan"), float("-inf")
    ids = sample_triton(scores, sampling_params(2, **options), torch.arange(2, device=DEVICE), CONFIG).ids
    assert bool(((ids >= 0) & (ids < VOCABULARY)).all())
