"""python -m services.kvstore"""

from __future__ import annotations

import sys

from services.common.bootstrap import Context, run_service
from services.kvstore.app import KvstoreApp


async def build(context: Context) -> KvstoreApp:
    return KvstoreApp(context)


def main() -> int:
    return run_service("kvstore", build)


if __name__ == "__main__":
    sys.exit(main())
