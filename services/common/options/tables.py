"""The tables, joined. A new option is one line in one of them."""

from __future__ import annotations

from services.common.options.base import Option
from services.common.options.engine import ENGINE_NOT_YET, ENGINE_OPTIONS
from services.common.options.serving import SERVING_NOT_YET, SERVING_OPTIONS

ALL_OPTIONS: tuple[Option, ...] = (*SERVING_OPTIONS, *ENGINE_OPTIONS)

# Names that users of LightLLM, vLLM, SGLang or LMDeploy know and that this version has not: name -> what to do.
NOT_YET: dict[str, str] = SERVING_NOT_YET | ENGINE_NOT_YET
