"""Each way in which a checkpoint can be unfit is told in one line that names what is at fault."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.worker.errors import WeightsError
from services.worker.runner.config import RunnerConfig
from services.worker.runner.start import start_runner
from services.worker.weights import Checkpoint, DummyWeights
from tests.fakes.naive_engine import Job, NaiveEngine
from tests.fakes.tiny_model import make_model


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return make_model(tmp_path, "llama", tie_word_embeddings=False)


def tokens(model_dir: Path, **options: object) -> list[int]:
    config = RunnerConfig(str(model_dir), device="cpu", max_slots=2, max_total_token_num=256, **options)  # type: ignore[arg-type]
    runner = start_runner(config)
    try:
        return NaiveEngine(runner).generate([Job([1, 2, 3], 12)])[0]
    finally:
        runner.close()


def refusal(model_dir: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        tokens(model_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shard(model_dir: Path, suffix: str) -> list[str]:
    """Splits the single file in two behind an index; returns the files' names."""
    whole = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    stem, index = {
        "safetensors": ("model", "model.safetensors"),
        "bin": ("pytorch_model", "pytorch_model.bin"),
    }[suffix]
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    weight_map = {}
    for i, name in enumerate(names):
        part = {key: whole[key] for j, key in enumerate(sorted(whole)) if j % 2 == i}
        weight_map |= dict.fromkeys(part, name)
        if suffix == "bin":
            torch.save(part, model_dir / name)
        else:
            save_file(part, model_dir / name)
    (model_dir / f"{index}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return names


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_checkpoints_give_the_tokens_of_a_single_file(model_dir, suffix):
    expected = tokens(model_dir)
    shard(model_dir, suffix)
    assert tokens(model_dir) == expected


def test_a_single_bin_file_gives_the_tokens_of_safetensors(model_dir):
    expected = tokens(model_dir)
    torch.save(load_file(model_dir / "model.safetensors"), model_dir / "pytorch_model.bin")
    (model_dir / "model.safetensors").unlink()
    assert tokens(model_dir) == expected


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_absent_shard_is_half_a_checkpoint(model_dir, suffix):
    (model_dir / shard(model_dir, suffix)[1]).unlink()
    assert re.search(
        rf"half a checkpoint.*00002-of-00002\.{suffix}' which is absent|names .*00002-of", refusal(model_dir)
    )


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_shard_cut_short_is_told_by_name(model_dir, suffix):
    cut = model_dir / shard(model_dir, suffix)[0]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = refusal(model_dir)
    assert cut.name in message
    assert "cut short or damaged" in message


def test_a_shard_without_what_the_index_promises_is_told(model_dir):
    first, second = shard(model_dir, "safetensors")
    (model_dir / second).write_bytes((model_dir / first).read_bytes())
    assert "which none of its files holds" in refusal(model_dir)


def test_a_missing_tensor_is_named(model_dir):
    edit(model_dir, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "has no tensor 'model.layers.1.mlp.up_proj.weight'" in refusal(model_dir)


def test_a_tensor_too_many_is_named(model_dir):
    edit(model_dir, lambda tensors: tensors.update({"model.layers.2.norm.weight": torch.zeros(3)}))
    assert "holds tensor 'model.layers.2.norm.weight'" in refusal(model_dir)


def test_a_wrong_shape_is_named_with_both_shapes(model_dir):
    edit(model_dir, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(32)}))
    message = refusal(model_dir)
    assert "'model.norm.weight' has shape [32], but config.json asks for [64]" in message


def test_a_folder_without_weights_says_what_it_looked_for(model_dir):
    (model_dir / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(model_dir)


def test_a_pickle_that_runs_code_is_refused(model_dir):
    class Evil:
        def __reduce__(self):
            return (print, ("must not run",))

    (model_dir / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, model_dir / "pytorch_model.bin")
    assert "pytorch_model.bin is damaged or holds something other than tensors" in refusal(model_dir)


def edit(model_dir: Path, change) -> None:
    path = model_dir / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("is_turned", [False, True], ids=["as it lies", "turned"])
@pytest.mark.parametrize(("dim", "size"), [(0, 100), (1, 40)])
def test_a_slice_is_what_the_whole_tensor_has_there(model_dir, dim, size, is_turned):
    name, shape = "model.layers.0.mlp.gate_proj.weight", (128, 64)
    for source in (Checkpoint(model_dir), DummyWeights(seed=3)):
        whole = torch.empty(shape)
        wanted = whole.narrow(dim, 16, size)
        part = torch.empty(wanted.t().shape).t() if is_turned else torch.empty(wanted.shape)
        source.read(name, shape, whole)
        source.read(name, shape, part, dim, 16)
        assert torch.equal(part, wanted)


def test_dummy_weights_need_no_files_and_depend_on_the_seed(model_dir):
    (model_dir / "model.safetensors").unlink()
    first = tokens(model_dir, load_format="dummy")
    assert tokens(model_dir, load_format="dummy") == first
    assert tokens(model_dir, load_format="dummy", seed=1) != first


def test_dummy_matrices_are_as_vllm_makes_them_up_and_norms_leave_values_alone():
    source, matrix, norm, bias = DummyWeights(), torch.empty(64, 128), torch.empty(64), torch.empty(64)
    source.read("a.q_proj.weight", matrix.shape, matrix)
    source.read("a.norm.weight", norm.shape, norm)
    source.read("a.q_proj.bias", bias.shape, bias)
    assert 0.99e-3 < matrix.abs().max() <= 1e-3
    assert matrix.std() == pytest.approx(2e-3 / 12**0.5, rel=0.05)
    assert abs(matrix.mean()) < 5e-5
    assert norm.eq(1).all()
    assert bias.eq(0).all()
