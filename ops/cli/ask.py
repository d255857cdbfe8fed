"""`mia ask`: a question, every step of it as it happens, and the answer with what it rests on."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import msgspec
from cyclopts import Parameter

from mia_events import ids
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused, unreadable
from ops.following import Seen, follow, outcome_of, told
from ops.story import Line, Story
from producers.outlet import KafkaOutlet
from producers.passages import read_passages
from producers.publish import send
from schemas.external import IncomingQuestion, Paragraph, decode_question
from schemas.external import Refused as NotTaken
from storage.postgres.history import PostgresHistory

__all__ = ["ANSWERED", "FAILED", "LATE", "ask", "print_line", "print_outcome"]

ANSWERED: Final = 0
FAILED: Final = 4
LATE: Final = 5


def ask(
    question: str,
    /,
    *,
    run: Annotated[str, Parameter(name=["--run", "-r"])] = DEFAULT_RUN,
    documents: Path | None = None,
    id_: Annotated[str | None, Parameter(name="--id")] = None,
    timeout: float = 900.0,
) -> None:
    """Ask a question and watch how it is answered; it goes before what was published in bulk.

    Ctrl-C stops watching; the question goes on. Exit status 0: answered; 4: it ended without an
    answer; 5: not yet answered after --timeout.

    Args:
        question: The question.
        run: A live run.
        documents: Passages for this question alone: .json or .jsonl of title and text, or a text.
        id_: A name for the question: the same one again shows the same question.
        timeout: Seconds after which watching ends.
    """
    incoming = _incoming(question, run, documents, id_ or f"ask-{uuid4().hex}")
    sys.exit(waiting_for(_ask(incoming, timeout)))


def _incoming(question: str, run: str, documents: Path | None, name: str) -> IncomingQuestion:
    incoming = IncomingQuestion(
        question=question, run=run, id=name, documents=_passages(documents), urgent=True
    )
    try:
        return decode_question(msgspec.json.encode(incoming))
    except NotTaken as error:
        raise Refused(str(error), "") from error


def _passages(path: Path | None) -> tuple[Paragraph, ...]:
    try:
        return read_passages(path) if path else ()
    except OSError as error:
        raise unreadable(path or Path(), error) from error
    except ValueError as error:
        raise Refused(f"{path} has no passages: {error}", "Correct the file.") from error


async def _ask(incoming: IncomingQuestion, timeout_s: float) -> int:
    async with connected("mia_worker") as at:
        question = await _publish(at, incoming)
        history = PostgresHistory(at.ledger.pool)
        try:
            return await _watch(history, question, timeout_s)
        except asyncio.CancelledError:
            _say(f"not watched any more; it goes on: {_again(question)}")
            raise


async def _publish(at: Connected, incoming: IncomingQuestion) -> UUID:
    view, state = await run_named(at.ledger, incoming.run)
    if state != "running":
        raise Refused(f"run {incoming.run!r} is {state}", "Ask in another one, or resume it.")
    if view.manifest.mode != "live":
        raise Refused(
            f"run {incoming.run!r} answers in batches: a question waits until its batch is full",
            "Ask in a live run, or use `mia publish`.",
        )
    async with KafkaOutlet(at.connections.kafka) as outlet:
        await send(outlet, [incoming])
    return ids.question_id(view.id, "id", incoming.id or "")


async def _watch(history: PostgresHistory, question: UUID, timeout_s: float) -> int:
    story, deadline = Story(), time.monotonic() + timeout_s
    looks: AsyncIterator[Seen] = follow(history, question)
    seen: Seen | None = None
    async for seen in looks:
        for event in seen.events:
            _print(story.tell(event), told(event))
        if time.monotonic() > deadline:
            break
    state = seen.state if seen else None
    if state is None or state.status not in {"answered", "failed"}:
        _say(f"no answer after {timeout_s:.0f} s; it goes on: {_again(question)}")
        return LATE
    print_outcome(await outcome_of(history, state))
    return ANSWERED if state.status == "answered" else FAILED


def _print(line: Line | None, event: dict[str, Any]) -> None:
    if not sys.stdout.isatty():
        print(msgspec.json.encode(event).decode(), flush=True)
    elif line is not None:
        print_line(line)


def print_line(line: Line) -> None:
    """Print a line of a question's story; its number means nothing to one who asked one."""
    attempt = line.who.partition(".")[2]
    who = f"attempt {int(attempt) + 1}" if attempt else ""
    console().print(f"{who:<10}{line.what:<10}{line.text}", markup=False, style=line.style)


def print_outcome(outcome: dict[str, Any]) -> None:
    """Print the answer or the failure, and what it rests on; a JSON line in a pipe."""
    if not sys.stdout.isatty():
        print(msgspec.json.encode({"type": "outcome", **outcome}).decode(), flush=True)
        return
    out = console()
    if outcome["status"] == "answered":
        out.print(f"\n{outcome['answer']}", markup=False, style="bold green")
    else:
        out.print(f"\nno answer: {outcome['reason']}", markup=False, style="bold red")
    if outcome["grade"]:
        out.print(f"judged {outcome['grade'].replace('_', ' ')}", markup=False)
    for source in outcome["sources"]:
        out.print(f"  source  {source}", markup=False)
    for memory in outcome["memories"]:
        text = " ".join(memory["text"].split())
        out.print(f"  memory  {memory['outcome']}: {text} ({memory['id']})", markup=False)
    out.print(f"the whole story: mia events show {outcome['id']}", markup=False, style="dim")


def _again(question: UUID) -> str:
    return f"`mia events show {question} --follow` shows it again"


def _say(message: str) -> None:
    from rich.console import Console  # noqa: PLC0415 - for standard error alone

    Console(stderr=True, soft_wrap=True).print(message, markup=False, style="yellow")
