"""A Kafka or Postgres that is not ours: how to reach it, and whether it will do."""

from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest

from ops.embedded.stack import Endpoints
from ops.errors import Refused
from ops.settings import KafkaSettings, PostgresSettings, Settings, read_secret
from ops.tls import client_arguments, tls_files

__all__ = [
    "check_external",
    "check_kafka",
    "check_postgres",
    "external_endpoints",
    "external_password",
    "kafka_options",
    "with_password",
]

_OLDEST_POSTGRES = 160000
_OLDEST_VECTOR = (0, 8, 4)
_NEW_IN_3_0 = 65  # the request DescribeTransactions


def external_endpoints(settings: Settings) -> Endpoints:
    """Return what is external; empty strings for what we run ourselves."""
    kafka, postgres = settings.kafka, settings.postgres
    if kafka.mode == "external" and not kafka.bootstrap_servers:
        raise Refused("kafka.mode is external", "Set kafka.bootstrap_servers to HOST:PORT,….")
    if postgres.mode == "external" and not postgres.dsn:
        raise Refused("postgres.mode is external", "Set postgres.dsn to postgresql://USER@HOST/DB.")
    return Endpoints(
        kafka.bootstrap_servers if kafka.mode == "external" else "",
        with_password(postgres, "admin", urlsplit(postgres.dsn).username or "postgres")
        if postgres.mode == "external"
        else "",
    )


def with_password(settings: PostgresSettings, key: str, user: str) -> str:
    """Return the external DSN as `user`, with the password that `password_files[key]` holds."""
    parts = urlsplit(settings.dsn)
    if parts.password:
        raise Refused(
            "postgres.dsn holds a password",
            f"Take it out, and name a file that holds it in postgres.password_files.{key}.",
        )
    password = quote(external_password(settings, key), safe="")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user, safe='')}:{password}@{host}").geturl()


def external_password(settings: PostgresSettings, key: str) -> str:
    """Return what the file `password_files[key]` holds."""
    if key not in settings.password_files:
        raise Refused(
            f"there is no password for the database user {key}",
            f"Set postgres.password_files.{key} to a file that holds it.",
        )
    return read_secret(settings.password_files[key])


def kafka_options(settings: KafkaSettings, bootstrap_servers: str) -> dict[str, Any]:
    """Return what every aiokafka client of this cluster takes, but for its TLS (see `ops.tls`)."""
    options: dict[str, Any] = {"bootstrap_servers": bootstrap_servers}
    if settings.mode == "embedded" or settings.security_protocol == "PLAINTEXT":
        return options
    options["security_protocol"] = settings.security_protocol
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = read_secret(settings.sasl_password_file)
    return options


async def check_external(settings: Settings) -> None:
    """Refuse an external part that does not answer, or is too old."""
    endpoints = external_endpoints(settings)
    if endpoints.bootstrap_servers:
        await check_kafka(settings.kafka)
    if endpoints.admin_dsn:
        await check_postgres(endpoints.admin_dsn)


async def check_kafka(settings: KafkaSettings) -> None:
    """Refuse a cluster that does not answer, has no broker, or is older than 3.0."""
    where = settings.bootstrap_servers
    arguments = client_arguments(kafka_options(settings, where), tls_files(settings))
    client = AIOKafkaClient(**arguments, request_timeout_ms=10_000)
    try:
        await client.bootstrap()
        versions = await client.send(client.get_random_node(), ApiVersionRequest())
    except (KafkaError, OSError, TimeoutError) as error:
        raise Refused(
            f"the external Kafka at {where} does not answer: {error}",
            "Check kafka.bootstrap_servers, kafka.security_protocol and the way there.",
        ) from error
    finally:
        await client.close()
    if _NEW_IN_3_0 not in {key for key, *_ in versions.api_versions}:
        raise Refused(f"the external Kafka at {where} is older than 3.0", "Use Kafka 3.x or 4.x.")


async def check_postgres(dsn: str) -> None:
    """Refuse a server that does not answer, is older than 16, or has no pgvector 0.8.4."""
    where = urlsplit(dsn)._replace(netloc=urlsplit(dsn).netloc.rpartition("@")[2]).netloc
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError, ValueError) as error:
        raise Refused(
            f"the external Postgres at {where} does not answer: {error}",
            "Check postgres.dsn, the password files and the way there.",
        ) from error
    try:
        number = int(await connection.fetchval("show server_version_num"))
        vector = await connection.fetchval(
            "select coalesce(installed_version, default_version) from pg_available_extensions"
            " where name = 'vector'"
        )
    finally:
        await connection.close()
    if number < _OLDEST_POSTGRES:
        raise Refused(f"the external Postgres is {number // 10000}", "Use version 16 or newer.")
    if vector is None or tuple(map(int, vector.split("."))) < _OLDEST_VECTOR:
        raise Refused(
            f"the external Postgres has pgvector {vector or '(none)'}",
            "Install pgvector 0.8.4 or newer there, and ALTER EXTENSION vector UPDATE.",
        )
