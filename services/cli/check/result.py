"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Result:
    """``advice`` says what to do, and is there whenever ``status`` is not OK."""

    name: str
    status: str
    detail: str
    advice: str = ""


def ok(name: str, detail: str) -> Result:
    return Result(name, OK, detail)


def warn(name: str, detail: str, advice: str) -> Result:
    return Result(name, WARN, detail, advice)


def fail(name: str, detail: str, advice: str) -> Result:
    return Result(name, FAIL, detail, advice)
