"""Worker processes get what they need and no more; no list of processes shows a secret."""

from pathlib import Path

import msgspec

from ops.connect import connections_to
from ops.embedded.spec import ChildSpec
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home
from ops.models import missing_models
from ops.processes import children
from ops.settings import load_settings
from ops.worker import WorkerConfig

_ADMIN = "the-admins-password"
_WHERE = Endpoints("127.0.0.1:9", f"postgresql://postgres:{_ADMIN}@127.0.0.1:8/postgres")


def _children(folder: Path, **more: str) -> dict[str, ChildSpec]:
    home = Home(folder / "home")
    home.create()
    environ = {
        "MIA_HOME": str(home.root),
        "MIA_MODELS__DEFAULT__BASE_URL": "http://models/v1",
        "MIA_MODELS__DEFAULT__MODEL": "m",
        **more,
    }
    return {spec.name: spec for spec in children(load_settings(environ=environ), home, _WHERE)}


def _config(spec: ChildSpec) -> WorkerConfig:
    return msgspec.json.decode(spec.stdin, type=WorkerConfig)


def test_the_judge_and_admission_are_processes_of_their_own(tmp_path: Path) -> None:
    """Only the judge's process has the role that reads labels."""
    found = _children(tmp_path)
    assert ["workers", "judge", "admit"] == list(found)
    assert {
        "workers": ["mia_worker"],
        "judge": ["mia_judge"],
        "admit": ["mia_admit"],
    } == {name: list(_config(spec).dsns) for name, spec in found.items()}
    assert ["judge"] == list(_config(found["judge"]).endpoints)


def test_no_secret_stands_in_a_command_line_or_a_repr(tmp_path: Path) -> None:
    """Passwords go through standard input alone; the administrator's goes nowhere."""
    found = _children(tmp_path)
    passwords = {path.read_text() for path in (tmp_path / "home" / "secrets").iterdir()}
    assert 3 == len(passwords)
    shown = "".join(f"{spec!r} {spec.env}" for spec in found.values())
    assert not [secret for secret in passwords if secret in shown]
    assert not [name for name, spec in found.items() if _ADMIN.encode() in spec.stdin]


def test_there_are_as_many_workers_as_wanted(tmp_path: Path) -> None:
    """`worker.processes` multiplies the workers, not the judge."""
    found = _children(tmp_path, MIA_WORKER__PROCESSES="3")
    assert ["workers-1", "workers-2", "workers-3", "judge", "admit"] == list(found)


def test_workers_can_be_left_out(tmp_path: Path) -> None:
    """A machine may run the log and the database alone."""
    assert {} == _children(tmp_path, MIA_EMBEDDED__WORKERS="false", MIA_EMBEDDED__MODELS="false")


def test_workers_wait_for_what_is_embedded_only(tmp_path: Path) -> None:
    """A part that is external is no child to wait for."""
    found = _children(
        tmp_path, MIA_KAFKA__MODE="external", MIA_KAFKA__BOOTSTRAP_SERVERS="kafka:9092"
    )
    assert ("postgres",) == found["workers"].depends_on


def test_the_administrator_reaches_the_projects_database() -> None:
    """Of an embedded Postgres the superuser's own database is not ours."""
    found = connections_to(load_settings(environ={}), _WHERE)
    assert f"postgresql://postgres:{_ADMIN}@127.0.0.1:8/mia" == found.database_dsn


def test_a_stack_without_models_says_so(tmp_path: Path) -> None:
    """A question would fail for want of a model: `mia up` tells before one is asked."""
    here = {"MIA_HOME": str(tmp_path), "MIA_EMBEDDED__MODELS": "false"}
    (remark,) = missing_models(load_settings(environ=here))
    assert "models.default.base_url" in remark
    elsewhere = {**here, "MIA_MODELS__DEFAULT__BASE_URL": "http://models/v1"}
    assert () == missing_models(load_settings(environ=elsewhere))
