"""Integration tests use a real Kafka and a real Postgres, started on first use."""

from tests.support.stack import bootstrap_servers, database, stack, topic_prefix

__all__ = ["bootstrap_servers", "database", "stack", "topic_prefix"]
