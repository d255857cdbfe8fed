"""Children are started in order, kept alive, stopped in reverse order, and never left over."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops.embedded import identity
from ops.embedded.child import StartFailed
from ops.embedded.spec import ChildSpec, ChildStatus, NotYet, RestartPolicy
from ops.embedded.state import Home
from ops.embedded.supervisor import Supervisor, end_leftovers

_ROOT = Path(__file__).parents[2]


def _home(folder: Path) -> Home:
    home = Home(folder / "home")
    home.create()
    return home


def _spec(folder: Path, name: str = "one", script: str = "", **more: object) -> ChildSpec:
    """Return a child that appends its name to `started`, then sleeps, ready when it has."""
    mark = folder / f"{name}.mark"
    body = script or "time.sleep(60)"
    text = (
        "import signal, sys, time, pathlib\n"
        f"open({str(folder / 'started')!r}, 'a').write({name!r} + ' ')\n"
        f"pathlib.Path({str(mark)!r}).touch()\n{body}\n"
    )

    async def ready() -> None:
        mark.unlink()

    values: dict[str, object] = {
        "name": name,
        "argv": [sys.executable, "-I", "-S", "-c", text],
        "ready": ready,
        "restart": RestartPolicy(first_s=0.01),
        "stop_patience_s": 5.0,
        **more,
    }
    return ChildSpec(**values)  # type: ignore[arg-type]


@asynccontextmanager
async def _running(home: Home, *specs: ChildSpec) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(home, specs)
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()


async def test_what_a_starting_child_says_is_shown(tmp_path: Path) -> None:
    """Its progress stands in the status until it is ready, each message once."""
    said = iter(("reading 5 %", "reading 5 %", "reading 10 %"))
    seen: list[str] = []

    async def ready() -> None:
        for message in said:
            raise NotYet(message)

    def changed(children: Sequence[ChildStatus]) -> None:
        seen.append(children[0].doing or children[0].state)

    supervisor = Supervisor(_home(tmp_path), [_spec(tmp_path, ready=ready)], changed)
    try:
        await supervisor.start()
    finally:
        await supervisor.stop()
    assert ["starting", "reading 5 %", "reading 10 %", "ready"] == seen[:4]


async def _next_life(supervisor: Supervisor, name: str, pid: int) -> int:
    async with asyncio.timeout(20):
        while True:
            await supervisor.child(name).ready.wait()
            if supervisor.child(name).pid != pid:
                break
            await asyncio.sleep(0.01)
    return supervisor.child(name).pid


async def _exists(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.01)


def test_the_wait_before_a_restart_doubles_up_to_a_bound() -> None:
    """A child that dies at once is not started in a tight loop."""
    policy = RestartPolicy(first_s=0.1, longest_s=1.0)
    assert [0.1, 0.2, 0.4, 0.8, 1.0, 1.0] == [policy.delay_s(n) for n in (1, 2, 3, 4, 5, 500)]


def test_a_settled_life_starts_the_count_of_deaths_again() -> None:
    """Two deaths a day apart are no series."""
    policy = RestartPolicy(settled_s=30)
    assert (1, 6) == (policy.deaths(5, lived_s=31), policy.deaths(5, lived_s=29))


async def test_children_start_after_what_they_depend_on(tmp_path: Path) -> None:
    """`start` returns when all are ready, in an order that dependencies allow."""
    specs = [_spec(tmp_path, "a"), _spec(tmp_path, "b", depends_on=("a",))]
    async with _running(_home(tmp_path), *specs) as supervisor:
        assert (tmp_path / "started").read_text() == "a b "
        assert ["ready", "ready"] == [status.state for status in supervisor.status()]


def test_a_dependency_must_be_listed_before(tmp_path: Path) -> None:
    """The mistake is named when the supervisor is built, not met as a hang."""
    with pytest.raises(ValueError, match="b depends on a: list it before"):
        Supervisor(_home(tmp_path), [_spec(tmp_path, "b", depends_on=("a",))])


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """Kill -9 costs a restart, which is counted and told with its reason."""
    async with _running(_home(tmp_path), _spec(tmp_path)) as supervisor:
        pid = supervisor.child("one").pid
        os.kill(pid, signal.SIGKILL)
        assert await _next_life(supervisor, "one", pid) != pid
        status = supervisor.status()[0]
        assert (1, "ended by SIGKILL") == (status.restarts, status.why)


async def test_a_child_that_never_starts_fails_the_start_with_what_it_wrote(
    tmp_path: Path,
) -> None:
    """The last lines of its log are in the message, and nothing is left running."""
    spec = _spec(tmp_path, script="print('no disk', flush=True); sys.exit(4)", ready=_never)
    other = _spec(tmp_path, "other")
    home = _home(tmp_path)
    with pytest.raises(StartFailed, match=r"(?s)one did not start: exit status 4.*no disk"):
        async with _running(home, other, spec):
            raise AssertionError("it is not up")
    assert list(home.run.glob("*.pid.json")) == []


async def test_a_child_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Being alive is not being ready."""
    spec = _spec(tmp_path, ready=_never, ready_patience_s=0.3)
    with pytest.raises(StartFailed, match=r"no answer within 0 s \(ConnectionError"):
        async with _running(_home(tmp_path), spec):
            raise AssertionError("it is not up")


async def _never() -> None:
    raise ConnectionError


async def test_children_stop_before_what_they_depend_on(tmp_path: Path) -> None:
    """A worker ends its work while its database still answers."""
    states: list[list[str]] = []

    def changed(children: Sequence[ChildStatus]) -> None:
        states.append([f"{child.name} {child.state}" for child in children])

    specs = [_spec(tmp_path, "a"), _spec(tmp_path, "b", depends_on=("a",))]
    supervisor = Supervisor(_home(tmp_path), specs, changed)
    await supervisor.start()
    states.clear()
    await supervisor.stop()
    assert [
        ["a ready", "b stopping"],
        ["a ready", "b stopped"],
        ["a stopping", "b stopped"],
        ["a stopped", "b stopped"],
    ] == states


async def test_a_child_deaf_to_its_stop_signal_is_killed(tmp_path: Path) -> None:
    """Stopping takes bounded time."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('deaf', 'w')\ntime.sleep(60)"
    script = deaf.replace("'deaf'", repr(str(tmp_path / "deaf")))
    spec = _spec(tmp_path, script=script, stop_patience_s=0.2)
    async with _running(_home(tmp_path), spec) as supervisor:
        await _exists(tmp_path / "deaf")
        pid, began = supervisor.child("one").pid, time.monotonic()
        await supervisor.stop()
        assert identity.identify(pid) is None
        assert time.monotonic() - began < 5


async def test_a_held_child_stays_down_until_it_is_released(tmp_path: Path) -> None:
    """Its data can be replaced meanwhile."""
    async with _running(_home(tmp_path), _spec(tmp_path)) as supervisor:
        child = supervisor.child("one")
        pid = child.pid
        await child.hold()
        assert (0, "held") == (child.pid, child.status().state)
        child.release()
        assert await _next_life(supervisor, "one", pid) != pid


async def test_a_restart_survives_a_failing_preparation(tmp_path: Path) -> None:
    """A disk that is full for a while costs tries, not the supervision."""
    fails = [False, True, True, False]

    async def prepare() -> None:
        if fails.pop(0):
            raise OSError(28, "No space left on device")

    async with _running(_home(tmp_path), _spec(tmp_path, prepare=prepare)) as supervisor:
        pid = supervisor.child("one").pid
        os.kill(pid, signal.SIGKILL)
        await _next_life(supervisor, "one", pid)
        assert supervisor.status()[0].restarts == 3


_SUPERVISE = """
import asyncio, sys, pathlib
from ops.embedded.spec import ChildSpec
from ops.embedded.state import Home
from ops.embedded.supervisor import Supervisor
async def main():
    home = Home(pathlib.Path(sys.argv[1])); home.create()
    async def ready(): pass
    supervisor = Supervisor(home, [ChildSpec("one", ["/bin/sleep", "60"], ready)])
    await supervisor.start()
    print(supervisor.child("one").pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals orphans")
def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """Kill -9 of the supervisor leaves no child, and the next start finds nothing to end."""
    home = Home(tmp_path / "home")
    with subprocess.Popen(
        [sys.executable, "-c", _SUPERVISE, str(home.root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    ) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert identity.identify(child) is not None
        supervisor.kill()
    deadline = time.monotonic() + 10
    while identity.identify(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert identity.identify(child) is None
    assert end_leftovers(home) == []


def test_a_leftover_child_is_ended(tmp_path: Path) -> None:
    """Where the kernel did not end it, the next start does."""
    home = _home(tmp_path)
    with subprocess.Popen(["/bin/sleep", "60"]) as left:
        identity.save(home.pid_file("worker"), left.pid)
        assert end_leftovers(home) == ["worker"]
        assert left.wait(5) == -signal.SIGTERM
    assert not home.pid_file("worker").exists()


def test_a_stranger_with_a_remembered_pid_is_left_alone(tmp_path: Path) -> None:
    """After a reboot the pid in the file may be anybody's."""
    home = _home(tmp_path)
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        identity.save(home.pid_file("worker"), stranger.pid)
        text = home.pid_file("worker").read_text()
        home.pid_file("worker").write_text(text.replace('"started":"', '"started":"before-'))
        assert end_leftovers(home) == []
        assert stranger.poll() is None
        stranger.kill()
    assert not home.pid_file("worker").exists()


def test_a_torn_pid_file_is_nobody(tmp_path: Path) -> None:
    """A kill in the middle of writing it is survived."""
    (tmp_path / "pid").write_text('{"pid": 1')
    assert identity.load(tmp_path / "pid") is None
