"""`mia audit`: its exit status, its JSON, and what it does not depend on."""

import json
import subprocess
import sys
from typing import Any

import pytest

from ops.audit import CannotAudit, Check, Fault, Report
from ops.audit.auditor import summarise
from ops.audit.book import Book
from ops.cli import audit as command
from ops.errors import Refused
from tests.support.audit_history import QUESTIONS, whole_run

FAULT = Fault(check=Check.CHAIN, what="broken", run="r", stream=QUESTIONS[0], seq=3)


def report(*faults: Fault) -> Report:
    """A report over the run of the unit tests."""
    counts = dict.fromkeys((fault.check for fault in faults), 7)
    run = summarise(Book(whole_run()), labels=True)
    return Report(runs=(run,), counts=counts, faults=faults, wanted_topics=False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the place of what the audit will say: a report, or an error to raise."""
    answer: dict[str, Any] = {}

    async def said(*_: object, **__: object) -> Report:
        if isinstance(answer["is"], Exception):
            raise answer["is"]
        found: Report = answer["is"]
        return found

    monkeypatch.setattr(command, "_audit", said)
    return answer


@pytest.mark.parametrize(
    "code, says",
    [
        (0, report()),
        (1, report(FAULT)),
        (2, CannotAudit("no run")),
        (2, Refused("the stack is not up", "Start it with `mia up`.")),
    ],
)
def test_the_exit_status_is_the_verdict(told: dict[str, Any], code: int, says: object) -> None:
    """Clean, faulty, or not to be told."""
    told["is"] = says
    with pytest.raises(SystemExit) as ended:
        command.examine("r")
    assert code == ended.value.code


def test_json_says_what_is_wrong_and_where(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """One object, the verdict first."""
    told["is"] = report(FAULT)
    with pytest.raises(SystemExit):
        command.examine("r", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert ("faults", {"chain": 7}) == (said["verdict"], said["counts"])
    assert [(str(QUESTIONS[0]), 3)] == [(f["stream"], f["seq"]) for f in said["faults"]]
    assert 64 == len(said["runs"][0]["digest"])


def test_a_person_reads_counts_digest_and_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """With the questions that are open and what was left out."""
    shown = report(FAULT)
    command.print_report(shown)
    said = capsys.readouterr().out
    for words in (
        "run r (batch, running)",
        "2 questions: 1 answered, 0 failed, 1 ended, 1 open",
        f"digest {shown.runs[0].digest}",
        "open: question 1 is executing",
        "1 gold values",
        "chain: 7",
        "broken",
        "7 faults",
    ):
        assert words in said


def test_the_auditor_shares_no_code_with_the_runner() -> None:
    """Whoever judges the runner does not import it, however indirectly."""
    script = "import sys, ops.audit; print([m for m in sys.modules if m.startswith('consumers')])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert b"[]" == result.stdout.strip()
