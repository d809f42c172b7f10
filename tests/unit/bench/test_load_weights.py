import pytest
import torch
from safetensors.torch import save_file

from bench.load_weights import Slice, cached_bytes, pages_touched, tensor_offsets

PAGE = 4096


def by_hand(slices, file_size):
    """Page by page and byte by byte."""
    touched = set()
    for piece in slices:
        weights = torch.arange(torch.Size(piece.shape).numel()).view(piece.shape)
        for element in weights.narrow(piece.dim, piece.start, piece.count).flatten().tolist():
            first = piece.offset + element * piece.itemsize
            touched |= {byte // PAGE for byte in range(first, first + piece.itemsize)}
    return len(touched)


@pytest.mark.parametrize("offset", [0, 8, 4090])
@pytest.mark.parametrize(
    ("shape", "dim", "start", "count"),
    [((64, 4096), 1, 1024, 1024), ((64, 4096), 0, 16, 16), ((5, 7000), 1, 1750, 1750), ((9000,), 0, 0, 9000)],
)
def test_pages_of_a_slice_are_those_of_its_bytes(offset, shape, dim, start, count):
    piece = Slice(offset, shape, 2, dim, start, count)
    size = offset + torch.Size(shape).numel() * 2
    assert pages_touched([piece], size, PAGE) == by_hand([piece], size)


def test_a_page_with_two_slices_counts_once():
    pieces = [Slice(0, (8,), 2, 0, 0, 8), Slice(16, (8,), 2, 0, 0, 8)]
    assert pages_touched(pieces, 32, PAGE) == 1
    assert sum(piece.num_bytes for piece in pieces) == 32


def test_columns_of_rows_of_two_pages_lie_on_half_of_the_pages():
    quarter = Slice(0, (4096, 4096), 2, 1, 1024, 1024)
    assert quarter.num_bytes == 4096 * 4096 * 2 // 4
    assert pages_touched([quarter], 4096 * 4096 * 2, PAGE) == 4096


def test_offsets_are_those_of_the_bytes_in_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.arange(7, dtype=torch.int32), "b": torch.arange(100, 105, dtype=torch.int32)}
    save_file(tensors, file)
    for name, offset in tensor_offsets(file).items():
        expected = tensors[name].numpy().tobytes()
        assert file.read_bytes()[offset : offset + len(expected)] == expected


def test_a_file_just_read_is_in_the_page_cache(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(10 * PAGE))
    file.read_bytes()
    assert cached_bytes([file]) == 10 * PAGE
