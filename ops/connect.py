"""How a process of ours reaches Kafka and Postgres, whoever runs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ops.embedded import report
from ops.embedded.external import (
    external_endpoints,
    external_password,
    kafka_options,
    with_password,
)
from ops.embedded.postgres import SUPERUSER
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home, write_secret
from ops.errors import Refused
from ops.settings import Settings
from ops.tls import TlsFiles, client_arguments, tls_files

__all__ = ["Connections", "connections", "connections_to"]

_ADMIN_SECRET = "postgres-admin"  # noqa: S105 - the name of a file, not what it holds


@dataclass(frozen=True)
class Connections:
    """Where everything is. `kafka_options` and `tls` may travel to another process.

    DSNs hold passwords: never print one, never put one on a command line.
    """

    kafka_options: Mapping[str, Any]
    tls: TlsFiles | None
    admin_dsn: str
    _settings: Settings
    _postgres: str

    @property
    def kafka(self) -> dict[str, Any]:
        """Keyword arguments for any aiokafka client of this process."""
        return client_arguments(self.kafka_options, self.tls)

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin."""
        return str(self.kafka_options["bootstrap_servers"])

    @property
    def database_dsn(self) -> str:
        """The administrator's DSN of the project's database."""
        if self._settings.postgres.mode == "external":
            return self.admin_dsn
        return urlsplit(self.admin_dsn)._replace(path=f"/{self.database}").geturl()

    @property
    def database(self) -> str:
        """The name of the project's database."""
        if self._settings.postgres.mode == "external":
            return urlsplit(self.admin_dsn).path.lstrip("/")
        return self._settings.postgres.database

    def password(self, role: str) -> str:
        """Return a database role's password; the embedded stack makes one on first use."""
        if self._settings.postgres.mode == "external":
            return external_password(self._settings.postgres, role)
        return write_secret(_home(self._settings).secret(f"postgres-{role}"))

    def dsn(self, role: str) -> str:
        """Return the DSN of the project's database as `role`."""
        settings = self._settings.postgres
        if settings.mode == "external":
            return with_password(settings, role, role)
        return _dsn(role, self.password(role), self._postgres, settings.database)


def connections(settings: Settings) -> Connections:
    """Return how to reach Kafka and Postgres.

    Raises:
        Refused: a part is embedded and the stack is not up, or an external one is not set.
    """
    external = external_endpoints(settings)
    kafka, admin, where = external.bootstrap_servers, external.admin_dsn, ""
    if not (kafka and admin):
        said = report.read(_home(settings))
        if said.phase != "up":
            raise Refused(f"the stack in {settings.home} is not up", "Start it with `mia up`.")
        kafka = kafka or said.bootstrap_servers
        where = said.postgres
        password = write_secret(_home(settings).secret(_ADMIN_SECRET))
        admin = admin or _dsn(SUPERUSER, password, where, "postgres")
    options = kafka_options(settings.kafka, kafka)
    return Connections(options, tls_files(settings.kafka), admin, settings, where)


def connections_to(settings: Settings, endpoints: Endpoints) -> Connections:
    """Return how to reach Kafka and Postgres where a starting stack will have them."""
    where = urlsplit(endpoints.admin_dsn).netloc.rpartition("@")[2]
    options = kafka_options(settings.kafka, endpoints.bootstrap_servers)
    return Connections(options, tls_files(settings.kafka), endpoints.admin_dsn, settings, where)


def _home(settings: Settings) -> Home:
    return Home(Path(settings.home).absolute())


def _dsn(user: str, password: str, where: str, database: str) -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@{where}/{database}?sslmode=disable"
