"""``shoal check``: tries what a deployment needs and says what to do about each failure."""

from services.cli.check.command import main

__all__ = ["main"]
