"""GET for probes: small, asynchronous, and quick to import."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit


async def get(
    url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 2.0
) -> tuple[int, bytes]:
    """Status and body; (0, reason) when nobody answers. Certificates are not checked: it only asks our own."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
            try:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n{more}\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                return int(head.split(b" ", 2)[1]), body
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError) as error:
        return 0, str(error or type(error).__name__).encode()
