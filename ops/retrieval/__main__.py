"""`python -m ops.retrieval`: the service as a process, its configuration on standard input."""

import asyncio
import os
import sys
import time

import msgspec
import uvicorn

from ops.errors import Refused
from ops.retrieval.config import RetrievalConfig, embedding_of, open_index
from ops.retrieval.service import Service, application

__all__ = ["main", "serve"]

_HOST = "127.0.0.1"
_PATIENCE_S = 5


async def serve(config: RetrievalConfig) -> None:
    """Answer until a signal; the index is opened or built meanwhile.

    Raises:
        Refused: there can be no index.
    """
    async with embedding_of(config) as embedding:
        service = Service(top_k=config.top_k, embedding=embedding)
        server = uvicorn.Server(
            uvicorn.Config(
                application(service),
                host=_HOST,
                port=config.port,
                access_log=False,
                log_level="warning",
                lifespan="off",
                # Longer than clients keep a connection: none is closed under their hands.
                timeout_keep_alive=60,
                timeout_graceful_shutdown=_PATIENCE_S,
            )
        )

        def told(message: str) -> None:
            if message.rstrip("0123456789 %") != service.progress.rstrip("0123456789 %"):
                _say(message)
            service.progress = message

        async def prepare() -> None:
            try:
                service.index = await open_index(config, embedding, told)
                _say(f"ready: {service.index.facts.passages} passages")
            except BaseException:
                server.should_exit = True
                raise

        preparing = asyncio.create_task(prepare())
        await server.serve()
        if not preparing.done():
            # A thread that builds cannot be stopped, and what it wrote so far may be cut anywhere.
            os._exit(0)
        await preparing


def _say(message: str) -> None:
    print(time.strftime("%F %T"), message, flush=True)


def main() -> int:
    """Serve; returns the exit status."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=RetrievalConfig)
    try:
        asyncio.run(serve(config))
    except Refused as refused:
        _say(str(refused))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
