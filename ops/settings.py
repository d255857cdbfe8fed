"""Settings: one tree of frozen structs, read from a TOML file and `MIA_*` variables."""

import msgspec

__all__ = ["EmbeddedSettings"]


class EmbeddedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processes that `mia up` starts itself. A port of 0 picks a free one and keeps it."""

    kafka_port: int = 0
    controller_port: int = 0
    postgres_port: int = 0
    kafka_heap_mb: int = 512
    kafka_retention_hours: int = 168
    kafka_jars: str = ""
    java: str = ""
    postgres_user: str = "nobody"
    postgres_shared_buffers_mb: int = 256
    postgres_max_connections: int = 120
    postgres_wal_mb: int = 256
