"""`python -m ops.serving`: keep the planner's servers level; configuration on standard input."""

import asyncio
import signal
import sys

import msgspec

from ops.serving.config import ServingConfig
from ops.serving.process import serve

__all__ = ["main"]


async def _until_signal(config: ServingConfig) -> None:
    serving = asyncio.ensure_future(serve(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


def main() -> None:
    """Work until a signal."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServingConfig)
    asyncio.run(_until_signal(config))


if __name__ == "__main__":
    main()
