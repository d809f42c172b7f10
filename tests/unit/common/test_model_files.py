from pathlib import Path

import pytest
import tokenizers

from services.common.errors import ConfigError
from services.common.model_files import load_tokenizer, model_name, model_path


def write_tokenizer(directory: Path) -> None:
    vocab = {"[UNK]": 0, "hello": 1, "world": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(1)
    backend.save(str(directory / "tokenizer.json"))


def test_a_missing_directory_is_a_configuration_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        model_path(str(tmp_path / "nowhere"))


def test_a_directory_without_tokenizer_files_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="tokenizer_mode fast"):
        load_tokenizer(tmp_path, "fast")


def test_a_broken_tokenizer_file_is_a_configuration_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match="is not a tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in caught.value.message


def test_a_tokenizer_is_read_and_never_truncates(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("hello world") == [1, 2]
    assert tokenizer.decode([1, 2]) == "hello world"


def test_a_model_is_named_after_its_directory_unless_a_name_was_chosen(tmp_path: Path) -> None:
    assert model_name("", str(tmp_path / "Llama-3")) == "Llama-3"
    assert model_name("mine", str(tmp_path)) == "mine"
    assert model_name("", "") == "demo"
