"""Kafka and Postgres as supervised local processes, without Docker; everything in one folder."""

from ops.embedded.stack import EmbeddedStack, Endpoints
from ops.embedded.supervisor import ChildSpec, RestartPolicy, StartFailed

__all__ = ["ChildSpec", "EmbeddedStack", "Endpoints", "RestartPolicy", "StartFailed"]
