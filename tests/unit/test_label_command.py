"""Labels from a file or standard input: which are taken, and that none is repeated."""

import io
from pathlib import Path
from uuid import UUID

import pytest

from mia_events import ids
from ops.cli import label
from ops.errors import Refused
from schemas.external import IncomingLabel

_SECRET = "the gold 7f3a"


def test_lines_are_read_and_bad_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By number, without their values."""
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"id": "a", "label": "x"}}\n\n{{"id": 7, "label": "{_SECRET}"}}\n{{"id"\n')
    assert ([("a", "x")], 2) == label._read(path)
    said = capsys.readouterr().err
    assert ("line 3" in said, "line 4" in said) == (True, True)
    assert _SECRET not in said


@pytest.mark.parametrize("value", ["", " ", "a\x00b", "x" * 20_001])
def test_a_label_that_would_not_be_taken_is_refused_before_it_is_sent(value: str) -> None:
    """The same check as admission's, whose refusal nobody would see here."""
    with pytest.raises(Refused) as refused:
        label._checked(IncomingLabel(label=value, id="a"))
    assert not value.strip() or value not in str(refused.value)


def test_a_value_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line end less; nothing at all is refused."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Paris\n"))
    assert "Paris" == label._value(None)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(Refused):
        label._value(None)


def test_a_name_that_looks_like_an_id_may_be_the_senders() -> None:
    """Idempotency keys often are UUIDs: the sender's name is tried first."""
    run, name = UUID(int=1), UUID(int=2)
    assert [ids.question_id(run, "id", str(name)), name] == label._candidates(run, str(name))
    assert [ids.question_id(run, "id", "q7")] == label._candidates(run, "q7")
