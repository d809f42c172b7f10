"""Every error that a client or an operator can meet, in one tree.

``code`` is stable: clients, dashboards and tests match on it. ``status`` is the HTTP status. The body that a
client gets is always JSON in the OpenAI error form (``openai_body``) and names the field and the limit.
"""

from __future__ import annotations

from typing import Any


class ShoalError(Exception):
    """Root of the tree. ``param`` names the request field at fault, where there is one."""

    status = 500
    code = "internal_error"
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(ShoalError):
    status, code, type = 400, "invalid_request", "invalid_request_error"


class InvalidValue(BadRequest):
    """A field has the right type and a value that is not allowed."""

    code = "invalid_value"


class ContextLengthExceeded(BadRequest):
    code = "context_length_exceeded"


class Unsupported(BadRequest):
    """A field that others have and this version does not."""

    code = "unsupported_parameter"


class Unauthorized(ShoalError):
    status, code, type = 401, "invalid_api_key", "authentication_error"


class NotFound(ShoalError):
    status, code, type = 404, "not_found", "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class TooLarge(ShoalError):
    status, code, type = 413, "request_too_large", "invalid_request_error"


class HeadTooLarge(ShoalError):
    status, code, type = 431, "request_headers_too_large", "invalid_request_error"


class RequestTimeout(ShoalError):
    """The request itself took too long to arrive."""

    status, code, type = 408, "request_timeout", "invalid_request_error"


class RateLimited(ShoalError):
    """The caller's own limit is reached."""

    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"


class QueueFull(ShoalError):
    """The waiting line is full: nothing was started, and trying later helps."""

    status, code, type = 429, "queue_full", "overloaded_error"


class Unavailable(ShoalError):
    """No live service can take the request now."""

    status, code, type = 503, "service_unavailable", "server_error"


class DeadlineExceeded(ShoalError):
    status, code, type = 504, "deadline_exceeded", "timeout_error"


class EngineFailure(ShoalError):
    """The engine refused or failed this request itself; another attempt would fail the same way."""

    code = "engine_failure"


class DecodeError(ShoalError):
    """Bytes from the bus that are not the message they should be."""

    code = "malformed_message"


class ConfigError(ShoalError):
    """A setting, a model directory or the machine is not as it must be. The process exits with 2."""

    code = "configuration_error"


def _tree(root: type[ShoalError]) -> list[type[ShoalError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


def from_code(code: str, message: str, *, retry_after_s: float | None = None) -> ShoalError:
    """The error that another service named by its code on the wire; unknown codes are internal errors."""
    for cls in _tree(ShoalError):
        if cls.code == code:
            return cls(message, retry_after_s=retry_after_s)
    return ShoalError(f"{code}: {message}", retry_after_s=retry_after_s)


def openai_body(error: ShoalError) -> dict[str, Any]:
    """The error as OpenAI clients read it."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
