"""The state folder: who holds it, which ports it remembers, what it keeps to itself."""

import socket
import stat
from pathlib import Path

import pytest

from ops.embedded import logs, report
from ops.embedded.report import Report
from ops.embedded.spec import ChildStatus
from ops.embedded.state import Home, write_secret
from ops.errors import Refused


def _home(folder: Path) -> Home:
    home = Home(folder / "home")
    home.create()
    return home


def test_only_one_holds_the_folder(tmp_path: Path) -> None:
    """The second is refused with what to do, and may have it afterwards."""
    home = _home(tmp_path)
    with home.locked():
        assert home.is_held()
        with pytest.raises(Refused, match="mia down"), home.locked():
            raise AssertionError("held twice")
    assert not home.is_held()
    with home.locked():
        assert home.is_held()


def test_the_folder_is_closed_to_others(tmp_path: Path) -> None:
    """Secrets and logs lie in it."""
    home = _home(tmp_path)
    write_secret(home.secret("x"))
    assert (0o700, 0o600) == tuple(
        stat.S_IMODE(path.stat().st_mode) for path in (home.root, home.secret("x"))
    )


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """Whoever asks second gets the first one's."""
    home = _home(tmp_path)
    first = write_secret(home.secret("x"))
    assert len(first) >= 32
    assert first == write_secret(home.secret("x"))
    assert first != write_secret(home.secret("y"))


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    """`mia reset` must never delete, nor `mia up` close, what it did not make."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Refused, match="it holds other things"):
        Home(tmp_path).create()
    assert ["thesis.tex"] == [path.name for path in tmp_path.iterdir()]


def test_a_port_is_remembered(tmp_path: Path) -> None:
    """Clients find the stack where it was."""
    home = _home(tmp_path)
    first = home.port("kafka")
    assert first == home.port("kafka")
    assert first[1] == ""
    assert first[0] != home.port("postgres")[0]


def test_a_remembered_port_that_was_taken_is_replaced_and_told(tmp_path: Path) -> None:
    """Nobody chose it, so another one does as well."""
    home = _home(tmp_path)
    before, _ = home.port("kafka")
    with socket.create_server(("127.0.0.1", before)):
        port, remark = home.port("kafka")
    assert port != before
    assert f"port {before} for kafka is taken now; using {port}" == remark
    assert (port, "") == home.port("kafka")


def test_a_configured_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Somebody chose it: say so and say what to do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(Refused, match=r"taken.*embedded\.kafka_port"):
            _home(tmp_path).port("kafka", taken)


def test_a_log_over_its_cap_is_moved_aside(tmp_path: Path) -> None:
    """An open file goes on at the start; the last stretch stays to read."""
    path = tmp_path / "kafka.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old line\n" * 100)
        logs.cap(tmp_path, limit=500)
        writer.write(b"new line\n")
    assert path.read_bytes() == b"new line\n"
    assert (tmp_path / "kafka.log.1").read_bytes() == b"old line\n" * 100


def test_a_log_is_followed_in_whole_lines_and_through_a_cut(tmp_path: Path) -> None:
    """What is being written waits for its end; a log that was emptied is read from its start."""
    path = tmp_path / "kafka.log"
    path.write_bytes(b"one\ntw")
    assert (4, "one\n") == logs.since(path, 0)
    path.write_bytes(b"one\ntwo\n")
    assert (8, "two\n") == logs.since(path, 4)
    assert (8, "") == logs.since(path, 8)
    path.write_bytes(b"x\n")
    assert (2, "x\n") == logs.since(path, 8)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    """A log that is not there is empty."""
    (tmp_path / "a.log").write_text("1\n2\n3\n")
    assert ("2\n3", "") == (logs.tail(tmp_path / "a.log", 2), logs.tail(tmp_path / "b.log", 2))


def test_a_report_is_read_back_while_its_writer_lives(tmp_path: Path) -> None:
    """What the supervisor says is what others see."""
    home = _home(tmp_path)
    child = ChildStatus("kafka", "ready", pid=1, port=2, restarts=3, since=4.0)
    said = Report(phase="up", pid=5, children=(child,))
    with home.locked():
        report.write(home, said)
        assert report.read(home).children == [child]


def test_a_report_outlived_by_nobody_is_lost(tmp_path: Path) -> None:
    """A killed supervisor still says `up` in its file; the lock knows better."""
    home = _home(tmp_path)
    report.write(home, Report(phase="up", pid=5))
    assert report.read(home).phase == "lost"


def test_no_report_is_down(tmp_path: Path) -> None:
    """Nothing was started here, not even the folder made."""
    home = Home(tmp_path / "none")
    assert report.read(home) == Report(phase="down")
    assert not home.root.exists()
