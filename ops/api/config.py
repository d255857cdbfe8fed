"""What the HTTP service must know, and what it refuses to be started with."""

import ipaddress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from ops.connect import Connections
from ops.embedded.state import Home, write_secret
from ops.errors import Refused
from ops.settings import Settings, read_secret
from ops.tls import TlsFiles, client_arguments

__all__ = ["TOKEN", "ApiConfig", "api_config", "token_file"]

#: The secret of the state folder that is the token where the settings name none.
TOKEN: Final = "api-token"  # noqa: S105 - the name of a file, not what it holds
_SHORTEST_TOKEN: Final = 16


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Holds secrets: it travels on standard input or in memory. `prefix` is the topics'."""

    kafka: dict[str, Any]
    tls: TlsFiles | None = None
    dsn: str
    token: str
    host: str = "127.0.0.1"
    port: int = 0
    max_body: int = 900_000
    pool_size: int = 4
    prefix: str = ""

    def kafka_client(self) -> dict[str, Any]:
        """Keyword arguments for any aiokafka client."""
        return client_arguments(self.kafka, self.tls)


def api_config(settings: Settings, connections: Connections, port: int) -> ApiConfig:
    """Return what the service must know.

    Raises:
        Refused: it would listen to other machines without a token of its own, or with a short one.
    """
    chosen = settings.api
    if not _is_loopback(chosen.host) and not chosen.token_file:
        raise Refused(
            f"api.host is {chosen.host}, which other machines reach, and no token is set",
            "Set api.token_file to a file that holds a long random one, or api.host to 127.0.0.1.",
        )
    token = read_secret(str(token_file(settings)))
    if len(token) < _SHORTEST_TOKEN:
        raise Refused(
            f"the token in {token_file(settings)} has fewer than {_SHORTEST_TOKEN} characters",
            "Write a longer one, such as `openssl rand -hex 32` prints.",
        )
    return ApiConfig(
        kafka=dict(connections.kafka_options),
        tls=connections.tls,
        dsn=_read_only(connections.dsn("mia_worker")),
        token=token,
        host=chosen.host,
        port=port,
        max_body=chosen.max_body_kb * 1000,
        pool_size=settings.postgres.pool_size,
    )


def token_file(settings: Settings) -> Path:
    """Return the file of the token; the state folder gets one where the settings name none."""
    if settings.api.token_file:
        return Path(settings.api.token_file).expanduser()
    path = Home(Path(settings.home).absolute()).secret(TOKEN)
    write_secret(path)
    return path


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_only(dsn: str) -> str:
    """Return the DSN of sessions that cannot write: what is asked travels by Kafka."""
    parts = urlsplit(dsn)
    query = "&".join(filter(None, (parts.query, "default_transaction_read_only=on")))
    return parts._replace(query=query).geturl()
