"""``shoal bench serve``: a client for any OpenAI-style server that measures what its users feel."""

from services.cli.bench.command import main

__all__ = ["main"]
