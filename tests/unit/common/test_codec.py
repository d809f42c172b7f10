"""Every wire type, by its annotations: what is encoded comes back, and no bytes break a decoder."""

import contextlib
import dataclasses
import functools
import math
import random
import tracemalloc
import types
import typing
from typing import Annotated, get_args, get_origin

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import DecodeError
from services.common.messages import control, events, frames, request, retention
from services.common.messages.codec import Floats, Ids, decode, encode, message

MESSAGES = [
    value
    for module in (control, events, frames, request, retention)
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
]
int32 = st.integers(-(2**31), 2**31 - 1)
SCALARS = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
}


def values_of(hint):
    """Values of a field's annotation."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        items = int32 if args[1] == "int32" else st.floats(width=32, allow_nan=False)
        return st.lists(items, max_size=5)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([st.none() if a is type(None) else values_of(a) for a in args])
    if origin is list:
        return st.lists(values_of(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=3)
    return SCALARS[hint] if hint in SCALARS else messages_of(hint)


@functools.cache
def messages_of(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(cls)})


any_message = st.sampled_from(MESSAGES).flatmap(messages_of)
many = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def decodes_or_refuses(data):
    for cls in MESSAGES:
        try:
            found = decode(cls, data)
        except DecodeError:
            continue
        assert decode(cls, encode(found)) == found or has_nan(found)


def has_nan(value):
    if isinstance(value, float):
        return math.isnan(value)
    if dataclasses.is_dataclass(value):
        return any(has_nan(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, dict):
        return any(has_nan(item) for item in value.values())
    return isinstance(value, list) and any(map(has_nan, value))


def test_all_messages_are_covered():
    assert {"GenerateRequest", "TokenFrame", "Heartbeat", "Holdings", "StreamLog"} <= {
        cls.__name__ for cls in MESSAGES
    }


@many
@given(any_message)
def test_what_is_encoded_comes_back(value):
    assert decode(type(value), encode(value)) == value


@many
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_decoded(data):
    decodes_or_refuses(data)


@many
@given(any_message, st.integers(0, 2**32))
def test_mutated_messages_are_refused_or_decoded(value, seed):
    rng, data = random.Random(seed), bytearray(encode(value))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        change = rng.choice(["set", "insert", "delete", "cut"])
        if change == "set" and at < len(data):
            data[at] = rng.randrange(256)
        elif change == "insert":
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif change == "delete":
            del data[at : at + rng.randint(1, 9)]
        elif change == "cut":
            del data[at:]
    decodes_or_refuses(bytes(data))


json_like = st.recursive(
    st.none() | st.booleans() | SCALARS[int] | st.floats() | st.text(max_size=5) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | int32, inner, max_size=4)
    ),
    max_leaves=12,
)


CLAIMS = [
    kind + b"\xff\xff\xff\xff" * repeats  # four billion bytes, items or entries, one inside the other
    for kind in (b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf")
    for repeats in (1, 50)
] + [b"\x91" * 100_000, b"\x81\xa1x" * 50_000, b"\xdd\xff\xff\xff\xff" * 50]


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_refused_bytes_take_no_memory_and_leave_none(cls):
    """However much they claim to hold, and however often they come."""
    rng = random.Random(1)
    bad = [*CLAIMS, *(rng.randbytes(rng.randrange(300)) for _ in range(100))]

    def refuse_all():
        for data in bad:
            with contextlib.suppress(DecodeError):
                decode(cls, data)

    refuse_all()  # what is cached once
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            refuse_all()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 16 * 2**20
    assert after - before < 64 * 2**10


@many
@given(st.sampled_from(MESSAGES), st.data())
def test_fields_of_any_type_are_refused_or_decoded(cls, data):
    names = [field.name for field in dataclasses.fields(cls)]
    fields = data.draw(st.dictionaries(st.sampled_from([*names, "unknown"]), json_like))
    with contextlib.suppress(DecodeError):
        assert isinstance(decode(cls, msgpack.packb(fields)), cls)


@message
class Example:
    name: str
    ids: Ids
    count: int = 3
    share: float = 0.5
    values: Floats = dataclasses.field(default_factory=list)
    mixed: dict[int, int | str] = dataclasses.field(default_factory=dict)
    maybe: str | None = None


def raw(**fields):
    return msgpack.packb({"name": "n", "ids": b""} | fields)


def test_unknown_fields_are_ignored_and_missing_ones_take_their_defaults():
    assert decode(Example, raw(new_field=[1, {"a": 2}])) == Example("n", [])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (msgpack.packb({"ids": b""}), "Example.name is missing"),
        (raw(name=7), "Example.name: expected str, found int"),
        (raw(count=True), "Example.count: expected int, found bool"),
        (raw(count=1.0), "Example.count: expected int, found float"),
        (raw(ids=[1, 2]), "Example.ids: expected packed int32, found list"),
        (raw(ids=b"abc"), "multiple"),
        (raw(mixed={1: True}), "Example.mixed: found bool"),
        (raw(mixed={"1": 1}), "Example.mixed: expected int, found str"),
        (raw(maybe=1), "Example.maybe: expected str, found int"),
        (msgpack.packb([1]), "expected a map, found list"),
        (raw() + b"more", "Example"),
        (b"\xdf\xff\xff\xff\xff", "Example"),
        (b"\x91" * 100_000, "Example"),
    ],
)
def test_what_is_wrong_is_named(data, complaint):
    with pytest.raises(DecodeError, match=complaint):
        decode(Example, data)


def test_a_whole_number_is_a_float():
    assert decode(Example, raw(share=2)).share == 2.0


@pytest.mark.parametrize("ids", [[2**31], [-(2**31) - 1], [2**80]])
def test_ids_that_do_not_fit_are_an_error_of_the_sender(ids):
    with pytest.raises(OverflowError):
        encode(Example("n", ids))


def test_ids_travel_as_four_bytes_each():
    assert len(encode(Example("n", list(range(100_000))))) < 4 * 100_000 + 100
