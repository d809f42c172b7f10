"""An authority of the tests' own, and certificates that it signs, made by the ``openssl`` program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM."""

    cert: Path
    key: Path


class Authority:
    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        made = self._make(name, "-x509", "-subj", f"/CN={name}", "-addext", "keyUsage=keyCertSign")
        self.cert, self._key = made.cert, made.key

    def sign(self, name: str) -> Certificate:
        """A certificate for 127.0.0.1, for servers and clients alike."""
        signers = ["-CA", str(self.cert), "-CAkey", str(self._key)]
        extensions = ["subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"]
        added = [word for extension in extensions for word in ("-addext", extension)]
        return self._make(name, "-x509", "-subj", f"/CN={name}", *signers, *added)

    def _make(self, name: str, *words: str) -> Certificate:
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        common = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        files = ["-keyout", str(made.key), "-out", str(made.cert)]
        subprocess.run([*common, *words, *files], check=True, capture_output=True, timeout=60)
        return made
