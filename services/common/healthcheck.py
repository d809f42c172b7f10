"""``python -m services.common.healthcheck [PATH]``: exit code 0 when the service beside it answers 200.

For containers: asks 127.0.0.1 at SHOAL_HEALTH_PORT, /ready unless told otherwise. Standard library only.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "/ready"
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["SHOAL_HEALTH_PORT"]), timeout=3)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        print(answer.status, answer.read(1000).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
