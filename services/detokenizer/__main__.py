"""python -m services.detokenizer"""

from __future__ import annotations

import sys

from services.common.bootstrap import Context, run_service
from services.common.model_files import load_tokenizer, model_name, model_path
from services.common.options import Settings
from services.detokenizer.app import DetokenizerApp
from services.detokenizer.decoding import decoding_of


async def build(context: Context) -> DetokenizerApp:
    settings = context.settings
    tokenizer = load_tokenizer(model_path(settings.model_dir), settings.tokenizer_mode)
    return DetokenizerApp(
        context.identity.instance_id,
        context.bus,
        context.subjects,
        context.timing,
        decoding_of(tokenizer),
        context.metrics,
        context.recorder,
    )


def name_of(settings: Settings) -> str:
    return model_name(settings.model_name, settings.model_dir)


def main() -> int:
    return run_service("detokenizer", build, model_name=name_of)


if __name__ == "__main__":
    sys.exit(main())
