"""The sum over ranks with its norm, by ranks that take turns over buffers of one process, against float64."""

import pytest
import torch
from helpers import DEVICE, HALF, TOLERANCE, relative_error

from kernels.rank_sum import AREAS, MAX_PROGRAMS, PeerMemory, kept_rows, reference

pytest.importorskip("triton")
from kernels.rank_sum.kernel import rank_sum_rms_norm_triton

CAPACITY = 1 << 16


def ranks_of(count: int, programs: int = MAX_PROGRAMS) -> list[PeerMemory]:
    size = PeerMemory.bytes_needed(count, CAPACITY)
    buffers = [torch.zeros(size, dtype=torch.uint8, device=DEVICE) for _ in range(count)]
    bases = torch.tensor([buffer.data_ptr() for buffer in buffers], device=DEVICE)
    return [PeerMemory(bases, buffer, rank, CAPACITY, programs) for rank, buffer in enumerate(buffers)]


def float64_answer(
    partials: torch.Tensor, stream: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised stream and the residual stream."""
    summed = stream.double() + partials.double().sum(0)
    scale = (summed.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return summed * scale * weight.double(), summed


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shared_out", [True, False])
@pytest.mark.parametrize("area", range(AREAS))
@pytest.mark.parametrize(
    ("ranks", "tokens", "width", "programs"),
    [(2, 1, 48, 128), (4, 3, 64, 128), (4, 9, 100, 2), (4, 23, 64, 2), (8, 25, 136, 2)],
)
def test_every_rank_gets_the_normalised_sum_and_keeps_its_tokens_of_the_stream(
    dtype: torch.dtype, ranks: int, tokens: int, width: int, programs: int, shared_out: bool, area: int
) -> None:
    torch.manual_seed(ranks + tokens)
    stream = torch.randn(tokens, width, device=DEVICE).to(dtype)
    partials = torch.randn(ranks, tokens, width, device=DEVICE).to(dtype)
    weight = torch.rand(width, device=DEVICE).to(dtype)
    answer, summed = float64_answer(partials, stream, weight)
    memories = ranks_of(ranks, programs)
    for memory, partial in zip(memories, partials, strict=True):
        memory.partial(stream, area).copy_(partial)
    streams = [stream.clone() for _ in memories]
    for memory, mine in zip(memories, streams, strict=True):
        rank_sum_rms_norm_triton(memory, mine, weight, 1e-5, area, shared_out, meet=False)
    for rank, (memory, mine) in enumerate(zip(memories, streams, strict=True)):
        assert relative_error(memory.normalised(stream), answer) < TOLERANCE[dtype]
        expected = stream.double()
        own = reference.share_of(rank, ranks, tokens) if shared_out else slice(None)
        expected[own] = summed[own]
        assert relative_error(mine, expected) < TOLERANCE[dtype]
        assert torch.equal(memory.partial(stream, area), partials[rank])


@pytest.mark.parametrize("shared_out", [True, False])
def test_whichever_rank_sums_adds_in_the_order_of_the_ranks(shared_out: bool) -> None:
    torch.manual_seed(0)
    ranks, tokens, width = 4, 9, 64
    stream, weight = torch.zeros(tokens, width, device=DEVICE), torch.ones(width, device=DEVICE)
    sizes = torch.tensor([1e6, 1.0, -1e6, 1e-3], device=DEVICE).view(ranks, 1, 1)
    partials = sizes * (1 + torch.rand(1, tokens, width, device=DEVICE))
    in_order = ((partials[0] + partials[1]) + partials[2]) + partials[3]
    assert not torch.equal(in_order, ((partials[1] + partials[2]) + partials[3]) + partials[0])
    memories = ranks_of(ranks, programs=1)
    for memory, partial in zip(memories, partials, strict=True):
        memory.partial(stream, 0).copy_(partial)
    for memory in memories:
        mine = stream.clone()
        rank_sum_rms_norm_triton(memory, mine, weight, 1e-5, 0, shared_out, meet=False)
        own = reference.share_of(memory.rank, ranks, tokens) if shared_out else slice(None)
        assert torch.equal(mine[own], in_order[own])


def test_rows_that_ranks_keep_add_up_to_the_whole_stream() -> None:
    torch.manual_seed(0)
    ranks, rows = 4, torch.tensor([8, 0, 5, 2, 0], device=DEVICE)
    memories, weight = ranks_of(ranks), torch.ones(64, device=DEVICE)
    partials, summed = torch.randn(ranks, 9, 64, device=DEVICE), torch.zeros(5, 64, device=DEVICE)
    stream = torch.randn(9, 64, device=DEVICE)
    for memory, partial in zip(memories, partials, strict=True):
        memory.partial(stream, 0).copy_(partial)
    for memory in memories:
        mine = stream.clone()
        rank_sum_rms_norm_triton(memory, mine, weight, 1e-5, 0, shared_out=True, meet=False)
        summed += kept_rows(memory, mine, rows)
    answer = stream.double() + partials.double().sum(0)
    assert relative_error(summed, answer[rows]) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_reference_matches_float64_and_its_shares_are_all_tokens_once(dtype: torch.dtype) -> None:
    partials, stream, weight = (torch.randn(*shape).to(dtype) for shape in ((3, 7, 40), (7, 40), (40,)))
    for found, right in zip(
        reference.rank_sum_rms_norm(partials, stream, weight, 1e-5),
        float64_answer(partials, stream, weight),
        strict=True,
    ):
        assert found.dtype == dtype
        assert relative_error(found, right) < TOLERANCE[dtype]
    for ranks, tokens in ((2, 1), (4, 9), (8, 3)):
        shares = [range(tokens)[reference.share_of(rank, ranks, tokens)] for rank in range(ranks)]
        assert [token for share in shares for token in share] == list(range(tokens))


def test_what_does_not_fit_is_refused() -> None:
    memory = ranks_of(2)[0]
    with pytest.raises(ValueError, match=f"{CAPACITY + 128} bytes exceed the {CAPACITY}"):
        memory.partial(torch.empty(CAPACITY // 64 + 2, 32, dtype=HALF), 0)
