"""Dataclasses to msgpack and back, checked against their annotations.

A wire type is a dataclass made by ``@message``. On the wire it is a msgpack map from field name to value;
a sequence annotated ``Ids`` travels as packed little-endian int32 and ``Floats`` as packed float32, because a
prompt of 100,000 ids must not become 100,000 msgpack integers. Fields that hold their defaults are left out (most of
a step's message is). Unknown fields are ignored and missing ones take their defaults, so services of neighbouring
versions can talk. Whatever cannot be decoded raises
``DecodeError`` and nothing else: a decoder is fed by the network.
"""

from __future__ import annotations

import dataclasses
import operator
import struct
import sys
import types
import typing
from array import array
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

import msgpack

from services.common.errors import DecodeError

M = TypeVar("M")
Ids = Annotated[list[int], "int32"]  # token ids, counts, indices
Floats = Annotated[list[float], "float32"]
_TYPECODES = {"int32": "i", "float32": "f"}
_SCALARS = (int, float, str, bool, bytes)
_ENCODE, _DECODE = "__shoal_encode__", "__shoal_decode__"

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]


def pack(values: list[int] | list[float], kind: str) -> bytes:
    """Packs numbers as little-endian 4-byte items. Raises OverflowError outside the item's range."""
    if kind == "int32":
        try:
            return struct.pack(f"<{len(values)}i", *values)  # a third of the time that an array takes
        except struct.error as error:
            raise OverflowError(str(error)) from None
    items = array(_TYPECODES[kind], values)
    if sys.byteorder == "big":
        items.byteswap()
    return items.tobytes()


def unpack(data: bytes, kind: str) -> list[Any]:
    items = array(_TYPECODES[kind])
    items.frombytes(data)  # ValueError when the length is not a multiple of 4
    if sys.byteorder == "big":
        items.byteswap()
    return items.tolist()


@dataclass_transform()
def message(cls: type[M]) -> type[M]:
    """Makes a wire type: a dataclass with slots whose fields all have a form on the wire."""
    cls = dataclasses.dataclass(slots=True)(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    codecs = {f.name: _codec(hints[f.name], f"{cls.__name__}.{f.name}") for f in fields}
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    encoders = [(f.name, codecs[f.name][0], _default_of(f)) for f in fields]
    values_of = _getter([f.name for f in fields])
    decoders = {name: decode for name, (_, decode) in codecs.items()}
    kinds = {name: hints[name] for name in decoders if hints[name] in _SCALARS}

    def to_map(value: Any) -> dict[str, Any]:
        found = {}
        for (name, encode, default), item in zip(encoders, values_of(value), strict=True):
            if item != default:
                found[name] = encode(item)
        return found

    def from_map(value: Any) -> M:
        if not isinstance(value, dict):
            raise DecodeError(f"{cls.__name__}: expected a map, found {type(value).__name__}")
        fields: dict[str, Any] = {}
        for name, item in value.items():
            if type(item) is kinds.get(name):  # what most fields are, at half the cost of a call
                fields[name] = item
            elif name in decoders:
                fields[name] = decoders[name](item)
        for name in required:
            if name not in fields:
                raise DecodeError(f"{cls.__name__}.{name} is missing")
        return cls(**fields)

    setattr(cls, _ENCODE, staticmethod(to_map))
    setattr(cls, _DECODE, staticmethod(from_map))
    return cls


_NO_DEFAULT = object()  # differs from every value


def _default_of(field: dataclasses.Field[Any]) -> Any:
    """The value for which a field need not be written."""
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory in (list, dict):
        return field.default_factory()
    return _NO_DEFAULT


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Reads all fields of a message at once."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def encode(value: Any) -> bytes:
    """The bytes of one message."""
    return msgpack.packb(getattr(value, _ENCODE)(value))


def decode(cls: type[M], data: bytes) -> M:
    """One message of type ``cls``, or DecodeError saying which field is wrong."""
    try:
        raw = msgpack.unpackb(data, strict_map_key=False)
        return getattr(cls, _DECODE)(raw)
    except DecodeError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"{cls.__name__}: {type(error).__name__}: {error}") from error


def _same(value: Any) -> Any:
    return value


def _scalar(kind: type, where: str) -> Decode:
    allowed: tuple[type, ...] = (int, float) if kind is float else (kind,)

    def check(value: Any) -> Any:
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise DecodeError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    return check


def _scalars(kind: type, where: str) -> Decode:
    """Lists of ``kind``."""
    check, check_item = _scalar(list, where), _scalar(kind, where)
    wanted = {kind}

    def check_all(value: Any) -> Any:
        if not set(map(type, check(value))) <= wanted:
            for item in value:
                check_item(item)
        return value

    return check_all


def _packed(kind: str, where: str) -> tuple[Encode, Decode]:
    def load(value: Any) -> list[Any]:
        if not isinstance(value, bytes):
            raise DecodeError(f"{where}: expected packed {kind}, found {type(value).__name__}")
        return unpack(value, kind)

    return lambda value: pack(value, kind), load


def _codec(hint: Any, where: str) -> tuple[Encode, Decode]:
    """How values of one annotation are written and read."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _packed(get_args(hint)[1], where)
    if origin in (types.UnionType, typing.Union):
        return _optional_codec(hint, where)
    if origin is list:
        kind = get_args(hint)[0]
        if kind in _SCALARS:
            return _same, _scalars(kind, where)
        encode_item, decode_item = _codec(kind, where)
        check = _scalar(list, where)
        if encode_item is _same:
            return _same, lambda value: [decode_item(item) for item in check(value)]
        return (
            lambda value: [encode_item(item) for item in value],
            lambda value: [decode_item(item) for item in check(value)],
        )
    if origin is dict:
        (encode_key, decode_key), (encode_item, decode_item) = (_codec(a, where) for a in get_args(hint))
        check = _scalar(dict, where)
        return (
            lambda value: {encode_key(k): encode_item(v) for k, v in value.items()},
            lambda value: {decode_key(k): decode_item(v) for k, v in check(value).items()},
        )
    if hasattr(hint, _ENCODE):
        return getattr(hint, _ENCODE), getattr(hint, _DECODE)
    if hint in _SCALARS:
        return _same, _scalar(hint, where)
    raise TypeError(f"{where}: {hint!r} has no form on the wire")


def _optional_codec(hint: Any, where: str) -> tuple[Encode, Decode]:
    """Unions: ``X | None``, and unions of scalars such as ``int | str``."""
    members = [a for a in get_args(hint) if a is not type(None)]
    nullable = len(members) < len(get_args(hint))
    if len(members) == 1:
        encode_one, decode_one = _codec(members[0], where)
        return (
            lambda value: None if value is None else encode_one(value),
            lambda value: None if value is None else decode_one(value),
        )
    if not all(m in (int, float, str, bool) for m in members):
        raise TypeError(f"{where}: a union on the wire is of scalars, or of one type and None")

    def check(value: Any) -> Any:
        is_member = isinstance(value, tuple(members)) and (bool in members or not isinstance(value, bool))
        if is_member or (value is None and nullable):
            return value
        raise DecodeError(f"{where}: found {type(value).__name__}")

    return _same, check
