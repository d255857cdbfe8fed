"""`mia up` can deal with whatever a Ctrl-C, a kill -9 or a reboot left."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from ops.cli.stack_view import facts
from ops.connect import connections
from ops.embedded import identity, report
from ops.embedded.state import Home
from ops.settings import EmbeddedSettings, Settings
from tests.support.stack import StackThread, new_home, small

_ROOT = Path(__file__).parents[2]


class Mia:
    """The command, on a state folder of its own."""

    def __init__(self, home: Path, **more: str) -> None:
        self.home = Home(home)
        embedded = {name: getattr(small(), name) for name in EmbeddedSettings.__struct_fields__}
        embedded |= {"workers": False, "models": False}
        chosen = {f"MIA_EMBEDDED__{name.upper()}": str(value) for name, value in embedded.items()}
        self.environ = {**os.environ, **chosen, "MIA_HOME": str(home), "PYTHONPATH": str(_ROOT)}
        self.environ |= more

    def command(self, *arguments: str) -> list[str]:
        # A shell starts background jobs deaf to SIGINT, and children inherit that.
        heed = "from signal import *; signal(SIGINT, default_int_handler)"
        return [sys.executable, "-c", f"{heed}; from ops.cli.main import main; main()", *arguments]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def up(self) -> str:
        done = self("up")
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def status(self) -> dict[str, Any]:
        return facts(self.home, report.read(self.home))  # the command takes a second to import

    def pids(self) -> dict[str, int]:
        status = self.status()
        return {child["name"]: child["pid"] for child in status["children"]} | {
            "supervisor": status["pid"]
        }

    def settings(self) -> Settings:
        return Settings(home=str(self.home.root))


@pytest.fixture(scope="module")
def mia() -> Iterator[Mia]:
    """Give the command on a folder of this module's own; nothing of it runs afterwards.

    A test begins with `up`, which must deal with whatever the one before it left.
    """
    mia = Mia(new_home())
    yield mia
    stopped = mia("down")
    shutil.rmtree(mia.home.root, ignore_errors=True)
    assert stopped.returncode == 0, stopped.stderr


def _gone(*pids: int) -> bool:
    deadline = time.monotonic() + 60
    while any(identity.identify(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(identity.identify(pid) for pid in pids)


def _let_go(mia: Mia) -> bool:
    """Wait for the kernel: it closes the files of a killed process after its first thread's end."""
    deadline = time.monotonic() + 30
    while mia.home.is_held() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not mia.home.is_held()


def _written(mia: Mia) -> str:
    """Write a value of this call's own, committed."""
    value = uuid.uuid4().hex

    async def write() -> None:
        connection = await asyncpg.connect(connections(mia.settings()).admin_dsn)
        await connection.execute("create table if not exists kept (value text)")
        await connection.execute("insert into kept values ($1)", value)
        await connection.close()

    asyncio.run(write())
    return value


def _kept(mia: Mia) -> list[str]:
    async def read() -> list[str]:
        connection = await asyncpg.connect(connections(mia.settings()).admin_dsn)
        rows = await connection.fetch("select value from kept")
        await connection.close()
        return [row["value"] for row in rows]

    return asyncio.run(read())


def test_up_twice_down_twice_and_reset(mia: Mia) -> None:
    """Each command says what is the case already; the data live until `reset`."""
    assert "up (in" in mia.up()
    first = mia.pids()
    value = _written(mia)
    assert "it was up already" in mia.up()
    assert first == mia.pids()
    refused = mia("reset", "--yes")
    assert (1, True) == (refused.returncode, "mia down" in refused.stderr)
    before = mia.status()
    assert mia("down").stdout.strip().endswith("down")
    assert _gone(*first.values())
    status = mia("status")
    assert (3, "down") == (status.returncode, json.loads(status.stdout)["phase"])
    assert mia("down").stdout.strip() == "nothing runs"
    mia.up()
    after = mia.status()
    assert before["bootstrap_servers"] == after["bootstrap_servers"]
    assert before["postgres"] == after["postgres"]
    assert value in _kept(mia)
    mia("down")
    unanswered = mia("reset")
    assert (1, True) == (unanswered.returncode, mia.home.root.exists())
    assert mia("reset", "--yes").returncode == 0
    assert not mia.home.root.exists()


def test_secrets_are_on_no_command_line_and_in_no_log(mia: Mia) -> None:
    """Any user can list processes, and logs are sent around."""
    mia.up()
    password = mia.home.secret("postgres-admin").read_text()
    family = [psutil.Process(pid) for pid in mia.pids().values()]
    lines = [" ".join(p.cmdline()) for q in family for p in (q, *q.children(recursive=True))]
    logged = {path.name: path.read_text() for path in mia.home.logs.glob("*")}
    assert len(lines) > 5
    assert {"kafka.log", "postgres.log", "supervisor.log"} <= logged.keys()
    assert [] == [text for text in (*lines, *logged.values()) if password in text]
    assert password not in mia("status").stdout


def test_everything_listens_on_loopback_only(mia: Mia) -> None:
    """Nothing of the stack can be reached from another machine."""
    mia.up()
    family = [psutil.Process(pid) for pid in mia.pids().values()]
    listening = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"127.0.0.1"} == {address.removeprefix("::ffff:") for address in listening}


@pytest.mark.parametrize("victims", [("supervisor",), ("supervisor", "kafka", "postgres")])
def test_kill_9_leaves_nothing_up_cannot_deal_with(mia: Mia, victims: tuple[str, ...]) -> None:
    """The supervisor alone, or all at once: the next `up` serves the same data."""
    mia.up()
    value = _written(mia)
    pids = mia.pids()
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    assert _gone(pids["supervisor"])
    assert _let_go(mia)
    assert mia.status()["phase"] == "lost"
    mia.up()
    assert _gone(*pids.values())
    assert value in _kept(mia)


def test_pid_files_of_before_a_reboot_mislead_nobody(mia: Mia) -> None:
    """Their pids now belong to strangers, who are left alone; Postgres' own file included."""
    mia.up()
    value = _written(mia)
    pids = mia.pids().values()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert _gone(*pids)
    with subprocess.Popen(["/bin/sleep", "600"]) as stranger:
        for path in (mia.home.supervisor_file, mia.home.pid_file("kafka")):
            path.write_text(f'{{"pid":{stranger.pid},"started":"an earlier boot"}}')
        lock = mia.home.postgres / "data" / "postmaster.pid"
        lock.write_text("\n".join([str(stranger.pid), *lock.read_text().splitlines()[1:], ""]))
        mia.up()
        assert stranger.poll() is None
        stranger.kill()
    assert value in _kept(mia)


@pytest.mark.parametrize("child", ["kafka", "postgres"])
def test_a_killed_child_is_back_by_itself(mia: Mia, child: str) -> None:
    """Kill -9 of a server is noticed, counted, and made good."""
    mia.up()
    before = _child(mia, child)
    os.kill(before["pid"], signal.SIGKILL)
    after = _next_life(mia, child, before["pid"])
    assert "ended by SIGKILL" == after["why"]
    assert before["restarts"] + 1 == after["restarts"]


def _child(mia: Mia, name: str) -> dict[str, Any]:
    children: list[dict[str, Any]] = mia.status()["children"]
    return next(child for child in children if child["name"] == name)


def _next_life(mia: Mia, name: str, pid: int) -> dict[str, Any]:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        child = _child(mia, name)
        if child["state"] == "ready" and child["pid"] != pid:
            return child
        time.sleep(0.1)
    raise AssertionError(f"{name} did not come back: {mia.status()}")


def test_ctrl_c_in_the_foreground_stops_everything(mia: Mia) -> None:
    """`mia up --foreground` ends with its children, and says nothing frightening."""
    mia("down")
    with subprocess.Popen(
        mia.command("up", "--foreground"),
        env=mia.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [next(process.stdout)]
        while "up (Ctrl-C stops it)" not in lines[-1]:
            lines.append(next(process.stdout))
        pids = mia.pids()
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stdout.read()
        assert process.wait(60) == 0
    assert _gone(*pids.values())


def test_ctrl_c_while_one_waits_leaves_nothing(mia: Mia) -> None:
    """Whoever changes their mind during `mia up` finds nothing running."""
    mia("down")
    with subprocess.Popen(mia.command("up"), env=mia.environ, stdout=subprocess.PIPE) as process:
        while not list(mia.home.run.glob("*.pid.json")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert mia.status()["phase"] == "down"


def test_a_port_taken_meanwhile_is_replaced_and_told(mia: Mia) -> None:
    """Both servers move to other ports and keep their data."""
    mia.up()
    value = _written(mia)
    before = mia.status()
    mia("down")
    ports = [int(before[name].rpartition(":")[2]) for name in ("bootstrap_servers", "postgres")]
    controller = mia.home.port("controller")[0]
    with (
        socket.create_server(("127.0.0.1", ports[0])),
        socket.create_server(("127.0.0.1", ports[1])),
        socket.create_server(("127.0.0.1", controller)),
    ):
        said = mia.up()
        after = mia.status()
    for name, port in (("kafka", ports[0]), ("postgres", ports[1]), ("controller", controller)):
        assert f"port {port} for {name} is taken now" in said
    assert before["bootstrap_servers"] != after["bootstrap_servers"]
    assert value in _kept(mia)


def test_a_configured_port_that_is_taken_is_refused(mia: Mia) -> None:
    """One line, with the setting to change."""
    mia("down")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        other = Mia(mia.home.root, MIA_EMBEDDED__POSTGRES_PORT=str(taken))
        done = other("up")
    assert done.returncode == 1
    expected = f"mia: port of postgres: {taken} is taken. Free it, or set embedded.postgres_port"
    assert expected in done.stderr
    assert not list(mia.home.run.glob("*.pid.json"))


def test_logs_by_name(mia: Mia) -> None:
    """One log, all logs, or what there is."""
    mia.up()
    assert "ready to accept connections" in mia("logs", "postgres").stdout
    assert "kafka: " in mia("logs", "-n", "1").stdout
    wrong = mia("logs", "nobody")
    assert (1, True) == (wrong.returncode, "kafka, postgres, supervisor" in wrong.stderr)


def test_an_external_stack_is_checked_and_not_started(stack: StackThread, tmp_path: Path) -> None:
    """With both external, `up` starts no child and tells where they are."""
    password = tmp_path / "password"
    password.write_text(stack.stack.admin_password)
    port = stack.admin_dsn.rpartition(":")[2].partition("/")[0]
    mia = Mia(
        tmp_path / "home",
        MIA_KAFKA__MODE="external",
        MIA_KAFKA__BOOTSTRAP_SERVERS=stack.bootstrap_servers,
        MIA_POSTGRES__MODE="external",
        MIA_POSTGRES__DSN=f"postgresql://postgres@127.0.0.1:{port}/postgres",
        MIA_POSTGRES__PASSWORD_FILES__ADMIN=str(password),
    )
    try:
        assert stack.bootstrap_servers in mia.up()
        assert mia.status()["children"] == []
    finally:
        mia("down")


def test_an_external_part_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    """The message names the setting that leads there."""
    mia = Mia(
        tmp_path / "home", MIA_KAFKA__MODE="external", MIA_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1"
    )
    done = mia("up")
    assert done.returncode == 1
    assert "the external Kafka at 127.0.0.1:1 does not answer" in done.stderr
    assert "kafka.bootstrap_servers" in done.stderr
