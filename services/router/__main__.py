"""python -m services.router"""

from __future__ import annotations

import sys

from services.common.bootstrap import Context, run_service
from services.router.app import RouterApp


async def build(context: Context) -> RouterApp:
    return RouterApp(context)


def main() -> int:
    return run_service("router", build)


if __name__ == "__main__":
    sys.exit(main())
