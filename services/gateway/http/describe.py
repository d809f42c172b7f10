"""The served OpenAPI description. Bodies are parsed by us (body.py), so their schemas are added here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from services.gateway.openai.types import ErrorBody

_REFERENCE = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is malformed or a value is not allowed",
    "401": "The API key is missing or unknown",
    "404": "There is no such model",
    "405": "The method is not allowed",
    "408": "The request did not arrive in time",
    "413": "The body is too large",
    "429": "A limit is reached, or the line is full",
    "431": "The headers are too large",
    "500": "The engine failed",
    "503": "Nothing can take the request now",
    "504": "The deadline has passed",
}


def paths_of(app: FastAPI) -> frozenset[str]:
    return frozenset(route.path for route in app.routes if isinstance(route, APIRoute))


def describe(
    app: FastAPI, bodies: Mapping[str, type[BaseModel]], *, streaming: Collection[str]
) -> dict[str, Any]:
    """The document, made once. ``bodies`` by path; ``streaming``: paths that may answer with events."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _add_schema(schemas, ErrorBody)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"] = _responses(path, streams=path in streaming)
                if path in bodies:
                    _add_schema(schemas, bodies[path])
                    content = {"application/json": {"schema": _reference(bodies[path])}}
                    operation["requestBody"] = {"required": True, "content": content}
        app.openapi_schema = document
    return app.openapi_schema


def _responses(path: str, *, streams: bool) -> dict[str, Any]:
    anything: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    content = {"text/plain": {"schema": {"type": "string"}}} if path == "/metrics" else dict(anything)
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Success", "content": content}}
    failure = {"application/json": {"schema": _reference(ErrorBody)}}
    for status, text in _ERRORS.items():
        responses[status] = {"description": text, "content": failure}
    if path == "/ready":
        responses["503"]["content"] = anything
    return responses


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
