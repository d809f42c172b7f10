"""Request bodies: read with a limit, parsed strictly, refused with the name of the field at fault."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from services.common.errors import BadRequest, InvalidValue, TooLarge
from services.gateway.load import Exchange

B = TypeVar("B", bound=BaseModel)
MAX_DEPTH = 64
_DISCARD_BYTES = 256 * 1024 * 1024
_DISCARD_S = 5.0
_FLAT = ("prompt", "tokens")  # may hold millions of ids, and their types leave no room for nesting


async def read_body(request: Request, exchange: Exchange, max_bytes: int) -> bytes:
    """The body, or TooLarge as soon as that is certain: by its declared length, or when it has come that far.

    Raises Unavailable when the bodies of all exchanges together are too much.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        await _discard(request)
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        part = event.get("body", b"")
        size += len(part)
        if size > max_bytes:
            parts.clear()
            await _discard(request)
            raise _too_large(max_bytes)
        exchange.hold(len(part))
        parts.append(part)
        if not event.get("more_body"):
            return b"".join(parts)


async def _discard(request: Request) -> None:
    """Reads on for a while, keeping nothing: a client that is still sending would not see the answer."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_S):
            while size < _DISCARD_BYTES:
                event = await request.receive()
                size += len(event.get("body", b""))
                if event["type"] == "http.disconnect" or not event.get("more_body"):
                    return
    except TimeoutError:
        return


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the request body is over the limit of {max_bytes} bytes (--max_body_bytes)")


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequest for anything else, NaN and unreasonable nesting included."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    _check_depth(value)
    return value


def _check_depth(value: dict[str, Any]) -> None:
    """Refuses what is nested deeper than MAX_DEPTH: templates and encoders recurse."""
    level: list[Any] = [{name: item for name, item in value.items() if name not in _FLAT}]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise BadRequest(f"the request body is nested deeper than {MAX_DEPTH} levels")


def validate(body_type: type[B], value: dict[str, Any]) -> B:
    """The typed body. Raises InvalidValue that names the first field at fault."""
    try:
        return body_type.model_validate(value)
    except ValidationError as error:
        raise _explain(body_type, error) from None


def _explain(body_type: type[BaseModel], error: ValidationError) -> InvalidValue:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    loc = first["loc"]
    name = str(loc[0]) if loc else ""
    field = body_type.model_fields.get(name)
    if first["type"] == "missing" and len(loc) == 1:
        return InvalidValue(f"{name} is required", param=name)
    is_union = len(loc) > 1 or first["type"].startswith("union_tag")
    if field is not None and field.description and is_union:
        return InvalidValue(f"{name} must be {field.description}", param=name)
    path = name + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc[1:])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidValue(f"{path}: {message}", param=name or None)
