"""GET for tests that look often. A new httpx client costs tens of milliseconds of processor time, for certificates."""

from __future__ import annotations

import urllib.error
import urllib.request


def get(url: str, timeout_s: float = 2.0) -> tuple[int, str]:
    """(status, body); (0, "") while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""
