"""`python -m ops.api`: the service as a process, its configuration on standard input."""

import asyncio
import sys

import msgspec

from ops.api.config import ApiConfig
from ops.api.serve import serve

__all__ = ["main"]


def main() -> None:
    """Serve until a signal."""
    asyncio.run(serve(msgspec.json.decode(sys.stdin.buffer.readline(), type=ApiConfig)))


if __name__ == "__main__":
    main()
