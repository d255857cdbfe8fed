"""The state folder: where everything of one embedded stack lies, and who holds it."""

import contextlib
import fcntl
import os
import random
import secrets
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ops.errors import Refused

__all__ = ["Home", "free_port", "port_is_free", "write_secret"]

_FIRST_PORT, _LAST_PORT = 10_000, 32_767


@dataclass(frozen=True)
class Home:
    """The paths in a state folder.

    logs/ (one file a child), run/ (lock, pids, status, ports), secrets/ (0600 files), kafka/,
    postgres/, retrieval/. Whoever holds the lock is the only one to start, stop or delete anything
    in it.
    """

    root: Path

    @property
    def logs(self) -> Path:
        """Where the children's output goes."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What concerns running processes; may be deleted while nothing runs."""
        return self.root / "run"

    @property
    def kafka(self) -> Path:
        """Kafka's configuration and data."""
        return self.root / "kafka"

    @property
    def postgres(self) -> Path:
        """Postgres' data; belongs to the account that Postgres runs as."""
        return self.root / "postgres"

    @property
    def retrieval(self) -> Path:
        """The index over the user's passages; made again from them."""
        return self.root / "retrieval"

    @property
    def status_file(self) -> Path:
        """What the supervisor last said of itself."""
        return self.run / "status.json"

    @property
    def supervisor_file(self) -> Path:
        """The identity of the supervisor."""
        return self.run / "supervisor.json"

    def pid_file(self, child: str) -> Path:
        """Return where the identity of a child is kept."""
        return self.run / f"{child}.pid.json"

    def secret(self, name: str) -> Path:
        """Return the file of a secret."""
        return self.root / "secrets" / name

    def create(self) -> None:
        """Make the folders, closed to everyone else."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._mark()
            secrets_ = self.root / "secrets"
            for folder in (self.logs, self.run, secrets_, self.kafka, self.postgres):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"cannot write the state folder {self.root}: {error.strerror}",
                "Set MIA_HOME to a folder that you own.",
            ) from error

    def require_ours(self) -> None:
        """Refuse a folder that no stack made: it would be deleted, or closed to others."""
        if not self._marker.exists():
            raise Refused(
                f"{self.root} is not a state folder: it holds other things",
                "Set MIA_HOME to a new or empty folder.",
            )

    @property
    def _marker(self) -> Path:
        return self.root / "mia-state"

    def _mark(self) -> None:
        if any(self.root.iterdir()):
            self.require_ours()
        self._marker.write_text("Made by `mia up`; `mia reset` deletes this folder.\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the kernel lets go of it when this process dies, however it dies."""
        self.create()
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Refused(
                f"another process is at work in {self.root}",
                "Use it as it is (`mia status`), or stop it with `mia down`.",
            ) from error
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Tell whether a supervisor holds the folder."""
        try:
            descriptor = os.open(self.run / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def port(self, name: str, configured: int = 0) -> tuple[int, str]:
        """Choose the port of `name` and remember it, so that clients survive a restart.

        Returns the port and a remark for the user, empty unless a remembered port had to change.
        A configured port that is taken is refused.
        """
        if configured:
            if not port_is_free(configured):
                raise Refused(
                    f"port {configured} for {name} is taken",
                    f"Free it, or set embedded.{name}_port to another one (0 picks a free one).",
                )
            return configured, ""
        remembered = self._ports()
        before = remembered.get(name, 0)
        if before and port_is_free(before):
            return before, ""
        port = free_port(exclude=set(remembered.values()))
        write_atomically(self.run / "ports.json", msgspec.json.encode({**remembered, name: port}))
        return port, f"port {before} for {name} is taken now; using {port}" if before else ""

    def _ports(self) -> dict[str, int]:
        try:
            return msgspec.json.decode((self.run / "ports.json").read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old content or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def write_secret(path: Path) -> str:
    """Return the secret in `path`, made on first use and readable by its owner only."""
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
        with contextlib.suppress(FileExistsError):  # another process was first: its secret counts
            os.link(draft, path)
        Path(draft).unlink()
    return path.read_text()


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(exclude: set[int]) -> int:
    """Pick a free loopback port that is not in `exclude`, by chance: others pick at the same time.

    It lies below those that Linux gives to outgoing connections; one of them might take it before
    its server does.
    """
    while True:
        port = random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311 - no secret
        if port not in exclude and port_is_free(port):
            return port
