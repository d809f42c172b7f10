"""python -m services.gateway: one gateway process."""

from __future__ import annotations

import sys

from services.common.bootstrap import Context, run_service
from services.common.model_files import model_name, model_path
from services.common.options import Settings
from services.gateway.app import GatewayApp


async def _build(context: Context) -> GatewayApp:
    return GatewayApp(context)


def _address(settings: Settings) -> tuple[str, int]:
    return settings.host, settings.port


def _model_name(settings: Settings) -> str:
    model_path(settings.model_dir)  # a directory that is not there is said before anything is tried
    return model_name(settings.model_name, settings.model_dir)


def main() -> int:
    return run_service("gateway", _build, model_name=_model_name, http_address=_address)


if __name__ == "__main__":
    sys.exit(main())
