"""TLS towards Kafka: the files travel between processes, the context is built where it is used."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ops.errors import Refused
from ops.settings import KafkaSettings

__all__ = ["TlsFiles", "client_arguments", "tls_files"]


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths: the authority's certificate (empty: the system's), our own and its key (or none)."""

    ca: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """Return a context that verifies the broker. Raises `Refused` for unusable files."""
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except (OSError, ssl.SSLError) as error:
            raise Refused(
                f"cannot use kafka's TLS files: {error}", "Check kafka.tls_*_file."
            ) from error
        return context


def tls_files(settings: KafkaSettings) -> TlsFiles | None:
    """Return the files of an external cluster that speaks TLS, absolute; None for any other."""
    if settings.mode == "embedded" or not settings.security_protocol.endswith("SSL"):
        return None
    return TlsFiles(
        ca=_absolute(settings.tls_ca_file),
        certificate=_absolute(settings.tls_certificate_file),
        key=_absolute(settings.tls_key_file),
    )


def client_arguments(options: Mapping[str, Any], tls: TlsFiles | None) -> dict[str, Any]:
    """Return the keyword arguments of an aiokafka client: the options, and TLS if it is spoken."""
    return {**options, "ssl_context": tls.context()} if tls else dict(options)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""
