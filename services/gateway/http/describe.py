"""The served OpenAPI description. Bodies are parsed by us (body.py), so their schemas are added here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from services.gateway.openai.types import ErrorBody

_REFERENCE = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is malformed or a value is not allowed",
    "401": "The API key is missing or unknown",
    "404": "There is no such model",
    "405": "The method is not allowed",
    "413": "The body is too large",
    "429": "A limit is reached, or the line is full",
    "500": "The engine failed",
    "503": "Nothing can take the request now",
    "504": "The deadline has passed",
}


def paths_of(app: FastAPI) -> frozenset[str]:
    return frozenset(route.path for route in app.routes if isinstance(route, APIRoute))


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _add_schema(schemas, ErrorBody)
        for operations in document["paths"].values():
            for operation in operations.values():
                _complete(operation, schemas)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    body_type = operation.pop("x-body", None)
    streams = operation.pop("x-streams", False)
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if operation.get("operationId", "").startswith("metrics"):
        content = {"text/plain": {"schema": {"type": "string"}}}
    operation["responses"] = {"200": {"description": "Success", "content": content}}
    failure = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="ErrorBody")}}}
    for status, text in _ERRORS.items():
        operation["responses"][status] = {"description": text, "content": failure}
    if operation.get("operationId", "").startswith("ready"):
        operation["responses"]["503"]["content"] = {"application/json": {"schema": {"type": "object"}}}
    if body_type is not None:
        _add_schema(schemas, body_type)
        schema = {"$ref": _REFERENCE.format(model=body_type.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}


def _add_schema(schemas: dict[str, Any], model: Any) -> None:
    schema = model.model_json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
