"""The gateway's paths and what surrounds them: keys, limits, errors, the served OpenAPI description."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from services.common.errors import NotFound, ShoalError
from services.common.options import Settings
from services.common.version import VERSION
from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.http.body import parse_json, read_body
from services.gateway.http.describe import describe, paths_of
from services.gateway.http.front import EXCHANGE, Front
from services.gateway.http.sse import JsonResponse, error_response
from services.gateway.openai import tokens
from services.gateway.openai.chat import create_chat
from services.gateway.openai.completions import create_completion
from services.gateway.openai.origin import Origin, new_origin
from services.gateway.openai.resume import find_stream
from services.gateway.openai.types import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

log = logging.getLogger(__name__)

_STREAM_PATH = "/v1/streams/{request_id}"
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
Generate = Callable[[Gateway, Origin, Caller, dict[str, Any]], Awaitable[Response]]
_CREATORS: dict[str, Generate] = {
    "/v1/chat/completions": create_chat,
    "/v1/completions": create_completion,
}


class MethodNotAllowed(ShoalError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"


def build_application(
    gateway: Gateway, settings: Settings, not_ready: Callable[[], str], registry: CollectorRegistry
) -> ASGIApp:
    """The ASGI application of one gateway."""
    shown = not settings.disable_fastapi_docs
    app = FastAPI(
        title="Shoal",
        version=VERSION,
        root_path=settings.root_path,
        openapi_url="/openapi.json" if shown else None,
        docs_url="/docs" if shown else None,
        redoc_url=None,
    )
    for path, create in _CREATORS.items():
        _add_generation(app, gateway, path, create)
    _add_resume(app, gateway)
    _add_tokens(app, gateway)
    _add_models(app, gateway)
    _add_probes(app, gateway, settings, not_ready, registry)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.openapi = lambda: describe(app, _BODIES, streaming=(*_CREATORS, _STREAM_PATH))  # type: ignore[method-assign]
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=settings.allow_methods,
            allow_headers=settings.allow_headers,
            allow_credentials=settings.allow_credentials,
            expose_headers=["X-Request-Id"],
        )
    return Front(app, gateway.metrics, gateway.load, paths_of(app))


def _add_generation(app: FastAPI, gateway: Gateway, path: str, create: Generate) -> None:
    async def endpoint(request: Request) -> Response:
        caller = gateway.caller(request)
        gateway.admit(caller)
        body = await read_body(request, request.scope[EXCHANGE], gateway.max_body_bytes)
        return await create(gateway, new_origin(gateway, request, body), caller, parse_json(body))

    app.post(path, name=path.strip("/").replace("/", "_"))(endpoint)


def _add_resume(app: FastAPI, gateway: Gateway) -> None:
    @app.get(_STREAM_PATH, name="streams")
    async def resume(request_id: str, request: Request) -> Response:
        caller = gateway.caller(request)
        gateway.admit(caller)
        origin = await find_stream(gateway, caller, request_id, request.headers.get("last-event-id", ""))
        return await _CREATORS[origin.path](gateway, origin, caller, parse_json(origin.body))


def _add_tokens(app: FastAPI, gateway: Gateway) -> None:
    async def read_value(request: Request) -> dict[str, Any]:
        gateway.caller(request)
        gateway.load.check_room()
        return parse_json(await read_body(request, request.scope[EXCHANGE], gateway.max_body_bytes))

    @app.post("/tokenize", name="tokenize")
    async def tokenize(request: Request) -> Response:
        return await tokens.tokenize(gateway, await read_value(request))

    @app.post("/detokenize", name="detokenize")
    async def detokenize(request: Request) -> Response:
        return tokens.detokenize(gateway, await read_value(request))


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/v1/models", name="models")
    async def list_models(request: Request) -> Response:
        gateway.caller(request)
        return tokens.list_models(gateway)

    @app.get("/v1/models/{model:path}", name="model")
    async def get_model(model: str, request: Request) -> Response:
        gateway.caller(request)
        return tokens.get_model(gateway, model)


def _add_probes(
    app: FastAPI,
    gateway: Gateway,
    settings: Settings,
    not_ready: Callable[[], str],
    registry: CollectorRegistry,
) -> None:
    @app.get("/health", name="health")
    async def health() -> Response:
        return JsonResponse({"status": "ok"})

    @app.get("/ready", name="ready")
    async def ready() -> Response:
        reason = not_ready()
        return JsonResponse({"ready": not reason, "reason": reason}, 503 if reason else 200)

    @app.get("/version", name="version")
    async def version() -> Response:
        return JsonResponse({"version": VERSION})

    @app.get("/metrics", name="metrics")
    async def metrics() -> Response:
        counters, shown = gateway.client.counters, gateway.metrics
        shown.resubmissions.set(counters.resubmissions)
        shown.replays.set(counters.replays)
        shown.cancels.set(counters.cancels)
        shown.stale_rows.set(counters.stale_rows)
        shown.ready.set(0 if not_ready() else 1)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/config", name="config")
    async def config(request: Request) -> Response:
        gateway.caller(request)
        return JsonResponse(settings.describe())


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(error)  # type: ignore[arg-type]


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    kind = MethodNotAllowed if status == 405 else NotFound
    where = f"{request.method} {request.url.path}"
    refusal = kind(
        f"{where}: {'this method is not allowed here' if status == 405 else 'there is no such path'}"
    )
    answer = error_response(refusal)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; 499 is what nginx logs for a client that left


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ShoalError: _on_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_gone,
}
