"""What is decoded id by id equals what the tokenizer decodes at once, and no piece breaks a character."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.model_files import FastTokenizer
from services.detokenizer.decoding import REPLACEMENT, TableDecoding, WindowDecoding, decoding_of

fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
texts = st.text(
    st.one_of(
        st.sampled_from("ab the é世界😀👍🏽👨‍👩‍👧\u0301\u200d\ufffd\n\t▁"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


def decode_in_steps(
    tokenizer: FastTokenizer, ids: Sequence[int], *, skip: bool = True, tail: Sequence[int] = ()
) -> list[str]:
    decoder = decoding_of(tokenizer).start(tail, skip)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@fuzz
@given(texts)
def test_byte_level_text_comes_back_whole(byte_level: FastTokenizer, text: str) -> None:
    ids = byte_level.encode(text)
    pieces = decode_in_steps(byte_level, ids)
    assert "".join(pieces) == text
    assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


@fuzz
@given(st.data(), st.booleans())
def test_byte_level_random_ids_equal_the_tokenizers_own_decode(
    byte_level: FastTokenizer, data: st.DataObject, skip: bool
) -> None:
    """Random ids are mostly invalid UTF-8, special and unknown ids among them."""
    size = byte_level.backend.get_vocab_size()
    ids = data.draw(st.lists(st.one_of(st.integers(0, size + 3), st.integers(90, 256)), max_size=40))
    assert "".join(decode_in_steps(byte_level, ids, skip=skip)) == byte_level.decode(ids, skip)


@fuzz
@given(texts, st.booleans())
def test_byte_fallback_text_equals_the_tokenizers_own_decode(
    byte_fallback: FastTokenizer, byte_fallback_unstripped: FastTokenizer, text: str, skip: bool
) -> None:
    for tokenizer in (byte_fallback, byte_fallback_unstripped):
        ids = tokenizer.encode(text)
        pieces = decode_in_steps(tokenizer, ids, skip=skip)
        assert "".join(pieces) == tokenizer.decode(ids, skip)
        assert REPLACEMENT in text or not any(REPLACEMENT in piece for piece in pieces)


@fuzz
@given(texts, texts, st.booleans())
def test_byte_fallback_continues_a_prompt_with_the_space_between(
    byte_fallback: FastTokenizer, prompt: str, text: str, skip: bool
) -> None:
    tail, ids = byte_fallback.encode(prompt), byte_fallback.encode(text)
    whole = byte_fallback.decode(tail + ids, skip)
    before = byte_fallback.decode(tail, skip)
    assert "".join(decode_in_steps(byte_fallback, ids, skip=skip, tail=tail)) == whole[len(before) :]


def byte_ids(tokenizer: FastTokenizer, data: bytes) -> list[int]:
    return [tokenizer.backend.token_to_id(f"<0x{b:02X}>") for b in data]


def test_byte_fallback_keeps_whole_characters_beside_broken_bytes(byte_fallback: FastTokenizer) -> None:
    """As sentencepiece itself does. The ``tokenizers`` library drops the whole run, which a stream cannot
    know before the run's end."""
    ids = byte_ids(byte_fallback, "€".encode() + b"\xff\xe2\x82") + byte_fallback.encode("a")
    assert "".join(decode_in_steps(byte_fallback, ids)) == "€" + 3 * REPLACEMENT + "a"


def test_an_incomplete_character_is_held_back_and_flushed_as_replacement(
    byte_level: FastTokenizer, byte_fallback: FastTokenizer
) -> None:
    emoji = byte_level.encode("\U0001f9ff")
    assert len(emoji) > 2
    assert decode_in_steps(byte_level, emoji) == [""] * (len(emoji) - 1) + ["\U0001f9ff", ""]
    assert decode_in_steps(byte_level, emoji[:-1])[-1] == REPLACEMENT
    assert decode_in_steps(byte_fallback, byte_ids(byte_fallback, b"\xe2\x82")) == ["", "", 2 * REPLACEMENT]


def test_special_tokens_are_skipped_per_stream(byte_level: FastTokenizer) -> None:
    ids = byte_level.encode("a<|end|>b", add_special_tokens=False)
    assert "".join(decode_in_steps(byte_level, ids, skip=True)) == "ab"
    assert "".join(decode_in_steps(byte_level, ids, skip=False)) == "a<|end|>b"


@fuzz
@given(
    st.lists(st.sampled_from(["the", "fox", "rains in", "Привет", "界", "<|end|>", "größer"]), max_size=12)
)
def test_other_tokenizers_are_decoded_by_context(metaspace: FastTokenizer, words: list[str]) -> None:
    ids = metaspace.encode(" ".join(words))
    for skip in (True, False):
        assert "".join(decode_in_steps(metaspace, ids, skip=skip)) == metaspace.decode(ids, skip)


def test_a_tokenizer_that_says_replacement_character_is_not_held_for_ever(byte_level: FastTokenizer) -> None:
    ids = byte_level.encode(REPLACEMENT * 30)
    decoder = WindowDecoding(byte_level).start([], True)
    pushed = "".join(decoder.push(i) for i in ids)
    assert len(pushed) > 20
    assert pushed + decoder.flush() == REPLACEMENT * 30


@fuzz
@given(texts)
def test_the_general_way_agrees_with_the_tables(byte_level: FastTokenizer, text: str) -> None:
    decoder = WindowDecoding(byte_level).start([], True)
    ids = byte_level.encode(text)
    assert "".join(decoder.push(i) for i in ids) + decoder.flush() == text


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "byte_fallback_unstripped"])
def test_common_tokenizers_take_the_fast_way(name: str, request: pytest.FixtureRequest) -> None:
    assert isinstance(decoding_of(request.getfixturevalue(name)), TableDecoding)


def test_unknown_tokenizers_take_the_general_way(metaspace: FastTokenizer) -> None:
    assert isinstance(decoding_of(metaspace), WindowDecoding)
