"""`mia label`: gold answers for questions that were asked, by way of `mia.feedback`."""

import asyncio
import contextlib
import getpass
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import msgspec
from cyclopts import Parameter

from mia_events import ids, topics
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console, warn
from ops.errors import Refused, unreadable
from producers.outlet import KafkaOutlet
from schemas.external import IncomingLabel, decode_label
from schemas.external import Refused as NotTaken
from storage.postgres.history import PostgresHistory, QuestionState
from storage.postgres.watch import PostgresWatch

__all__ = ["label"]

_PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.2
_SENDER: Final = "id"


def label(
    run: str,
    question: str | None = None,
    value: str | None = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(name=["--file", "-f"])] = None,
) -> None:
    """Give the gold answer of a question; it is sealed, and only judge and report read it.

    Without a VALUE it is read from standard input, so that it stands in no list of processes and
    no shell's history. A second label of a question corrects the first. One for a question that
    has ended is kept for reports, and changes nothing else. Exit status 1: a label was not sealed.

    Args:
        run: The run.
        question: The question: its UUID, or the id that its sender gave it.
        value: The gold answer.
        file: Many at once instead: JSON lines {"id": ..., "label": ...}; - is standard input.
    """
    if (question is None) == (file is None):
        raise Refused("a question or a file is needed", "`mia label RUN QUESTION`, or --file.")
    if file is None:
        labels = [(question or "", _value(value))]
        good, bad = labels, 0
    else:
        good, bad = _read(file)
    sealed, late = waiting_for(_send(run, good))
    console().print(f"{sealed} of {len(good) + bad} labels are sealed", markup=False)
    if late:
        warn(f"{late} came after their questions had ended: only reports will use them")
    if bad or sealed < len(good):
        sys.exit(1)


def _value(value: str | None) -> str:
    if value is not None:
        return value
    found = getpass.getpass("gold answer: ") if sys.stdin.isatty() else sys.stdin.read()
    if not found.strip():
        raise Refused("there is no label on standard input", "Give it there, or as VALUE.")
    return found.strip()


class _Line(msgspec.Struct):
    id: str
    label: str


def _read(file: Path) -> tuple[list[tuple[str, str]], int]:
    """Return (question, label) of the good lines, and how many are bad; no label is quoted."""
    try:
        content = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
    good, bad = [], 0
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            warn(f'line {number} was skipped: it is not {{"id": ..., "label": ...}}')
            bad += 1
        else:
            good.append((found.id, found.label))
    return good, bad


async def _send(run: str, labels: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Send them all, or none where a question is unknown; how many were sealed, and how many of
    all came too late to count.
    """
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        named = [(await _named(at, view.id, run, question), value) for question, value in labels]
        watch = PostgresWatch(at.ledger.pool)
        wanted = Counter(state.id for (state, _), _ in named)
        wanted += await watch.labels(list(wanted))
        async with KafkaOutlet(at.connections.kafka) as outlet:
            for (state, record), value in named:
                whole = msgspec.structs.replace(record, label=value)
                # By question: a correction stays behind what it corrects.
                await outlet.put(topics.FEEDBACK, state.id.bytes, _checked(whole))
            await outlet.flush()
        missing = await _missing(watch, wanted)
    return len(named) - missing, sum(state.closed for (state, _), _ in named)


async def _named(
    at: Connected, run_id: UUID, run: str, name: str
) -> tuple[QuestionState, IncomingLabel]:
    """Return a question and the label's record, still empty. Raises `Refused`."""
    history = PostgresHistory(at.ledger.pool)
    for question in _candidates(run_id, name):
        found = await history.question(question)
        if found is not None and found.run == run:
            return found, IncomingLabel(
                label="", run=run, source=found.source, row=found.row, pass_no=found.pass_no
            )
    raise Refused(f"run {run!r} has no question {name}", "`mia answers` shows their ids.")


def _candidates(run_id: UUID, name: str) -> list[UUID]:
    """Return the questions that may be meant: by the sender's id, which may look like a UUID."""
    candidates = [ids.question_id(run_id, _SENDER, name)]
    with contextlib.suppress(ValueError):
        candidates.append(UUID(name))
    return candidates


def _checked(record: IncomingLabel) -> bytes:
    encoded = msgspec.json.encode(record)
    try:
        decode_label(encoded)
    except NotTaken as error:
        raise Refused(str(error), "") from None
    return encoded


async def _missing(watch: PostgresWatch, wanted: Counter[UUID]) -> int:
    """Wait until questions have so many labels, as long as there are more and more; how many are
    still missing then.
    """
    deadline, before = time.monotonic() + _PATIENCE_S, sum(wanted.values())
    while True:
        missing = (wanted - await watch.labels(list(wanted))).total()
        if missing < before:
            deadline, before = time.monotonic() + _PATIENCE_S, missing
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(_POLL_S)
