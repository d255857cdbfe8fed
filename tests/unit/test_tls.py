"""TLS towards an external Kafka reaches the worker processes."""

import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest

from ops.connect import connections
from ops.errors import Refused
from ops.processes import worker_config
from ops.settings import KafkaSettings, PostgresSettings, Settings
from ops.tls import TlsFiles
from ops.worker import WorkerConfig


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a self-made authority: `ca.pem` and `ca.key`."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=test authority",
         "-keyout", folder / "ca.key", "-out", folder / "ca.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def _settings(authority: Path) -> Settings:
    secret = authority / "secret"
    secret.write_text("word\n")
    roles = ("admin", "mia_worker", "mia_judge", "mia_admit", "mia_audit")
    return Settings(
        home=str(authority / "home"),
        kafka=KafkaSettings(
            mode="external",
            bootstrap_servers="broker:9093",
            security_protocol="SASL_SSL",
            sasl_username="mia",
            sasl_password_file=str(secret),
            tls_ca_file=str(authority / "ca.pem"),
            tls_certificate_file=str(authority / "ca.pem"),
            tls_key_file=str(authority / "ca.key"),
        ),
        postgres=PostgresSettings(
            mode="external",
            dsn="postgresql://owner@db/mia",
            password_files=dict.fromkeys(roles, str(secret)),
        ),
    )


def test_a_workers_configuration_travels_with_paths_and_arrives_as_a_context(
    authority: Path,
) -> None:
    """The JSON that a child reads holds no context, and the child builds one that verifies."""
    settings = _settings(authority)
    sent = msgspec.json.encode(worker_config(settings, connections(settings), {}))
    read = msgspec.json.decode(sent, type=WorkerConfig)
    arguments = read.kafka_client()
    context = arguments.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert ssl.CERT_REQUIRED == context.verify_mode
    (found,) = context.get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert((authority / "ca.pem").read_text()) == found
    assert ("SASL_SSL", "word") == (
        arguments["security_protocol"],
        arguments["sasl_plain_password"],
    )


def test_this_process_gets_its_context_too(authority: Path) -> None:
    """Commands talk to the same broker as workers do."""
    assert isinstance(connections(_settings(authority)).kafka["ssl_context"], ssl.SSLContext)


def test_without_tls_there_is_no_context() -> None:
    """The embedded Kafka speaks plain text on the loopback."""
    config = WorkerConfig(kafka={"bootstrap_servers": "x"}, dsns={}, endpoints={}, artifacts="")
    assert {"bootstrap_servers": "x"} == config.kafka_client()


def test_a_file_that_will_not_do_is_refused(tmp_path: Path) -> None:
    """The message says which setting to look at."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(Refused, match=r"kafka\.tls_"):
        TlsFiles(ca=str(tmp_path / "ca.pem")).context()
