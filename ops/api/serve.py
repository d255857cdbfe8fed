"""The composition root of the HTTP service."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import structlog
import uvicorn

from ops.api.application import Api, application
from ops.api.config import ApiConfig
from ops.api.service import Service
from producers.outlet import KafkaOutlet
from storage.postgres.gauges import PostgresGauges
from storage.postgres.ledger import PostgresLedger

__all__ = ["serve"]

_log = structlog.get_logger(__name__)
_PATIENCE_S: Final = 3
_TRY_AGAIN_S: Final = 0.5


async def serve(config: ApiConfig) -> None:
    """Answer until a signal; before that, wait for the database and Kafka."""
    async with AsyncExitStack() as stack:
        ledger, outlet = await _patiently(config, stack)
        api = Api(Service(ledger, outlet), PostgresGauges(ledger.pool), config.max_body)
        server = uvicorn.Server(
            uvicorn.Config(
                application(api, config.token),
                host=config.host,
                port=config.port,
                access_log=False,
                log_level="warning",
                lifespan="off",
                server_header=False,
                # Longer than clients keep a connection: none is closed under their hands.
                timeout_keep_alive=60,
                timeout_graceful_shutdown=_PATIENCE_S,
            )
        )
        _log.info("serving", host=config.host, port=config.port)
        await server.serve()


async def _patiently(
    config: ApiConfig, stack: AsyncExitStack
) -> tuple[PostgresLedger, KafkaOutlet]:
    while True:
        async with AsyncExitStack() as attempt:
            try:
                ledger = await PostgresLedger.open(config.dsn, size=config.pool_size)
                attempt.push_async_callback(ledger.close)
                outlet = await attempt.enter_async_context(
                    KafkaOutlet(config.kafka_client(), prefix=config.prefix)
                )
            except ConnectionError as error:
                _log.warning("waiting for the database and Kafka", error=str(error))
            else:
                stack.push_async_exit(attempt.pop_all())
                return ledger, outlet
        await asyncio.sleep(_TRY_AGAIN_S)
