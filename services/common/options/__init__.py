"""Every setting of every service, in tables: one line each, read from flags, environment and a file alike."""

from services.common.options.base import Option, OptionError
from services.common.options.parse import Settings, environment, help_text, parse

__all__ = ["Option", "OptionError", "Settings", "environment", "help_text", "parse"]
