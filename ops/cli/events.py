"""`mia events tail|show`: the ledger's events, as they come or as they led to each other."""

import asyncio
import sys
from typing import Annotated, Any
from uuid import UUID

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from ops.cli.waiting import waiting_for
from ops.connected import connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused
from ops.following import follow, told
from storage.postgres.history import Effect, PostgresHistory, StoredEvent
from storage.postgres.watch import Feed, PostgresWatch, SeenEvent

__all__ = ["events"]

_POLL_S = 0.5
_WIDE = 2_000
_ROLE = "mia_audit"
_Follow = Annotated[bool, Parameter(name=["--follow", "-f"], negative="")]

events = App(name="events", help="Look at the ledger's events.")


@events.command
def tail(
    run: str = DEFAULT_RUN,
    /,
    *,
    follow_: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: Annotated[int, Parameter(name=["--lines", "-n"])] = 20,
    type_: Annotated[tuple[str, ...], Parameter(name="--type", negative="")] = (),
) -> None:
    """Print a run's newest events, oldest first; JSON lines in a pipe.

    Args:
        run: The run.
        follow_: Go on as they come, until Ctrl-C.
        lines: How many to begin with.
        type_: Only events of this type, such as turn.tool_called; may be repeated.
    """
    waiting_for(_tail(run, type_, lines, follow_=follow_))


@events.command
def show(id_: UUID, /, *, follow_: _Follow = False) -> None:
    """Show a question's whole story, or one event: payloads, causes, effects; JSON lines in a pipe.

    What is sealed (a label, what the judge was asked) is named, not shown.

    Args:
        id_: A question's or an event's id.
        follow_: Go on until the question has ended.
    """
    if not waiting_for(_show(id_, follow_=follow_)):
        raise Refused(
            f"there is no question and no event {id_}", "`mia answers` and `mia events tail` name."
        )


async def _tail(run: str, types: tuple[str, ...], lines: int, *, follow_: bool) -> None:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        feed = Feed(PostgresWatch(at.ledger.pool), view.run_no, types)
        fresh = (await feed.fresh())[-lines:] if lines else []
        while True:
            for event in fresh:
                _print_short(event)
            if not follow_:
                return
            await asyncio.sleep(_POLL_S)
            fresh = await feed.fresh()


async def _show(id_: UUID, *, follow_: bool) -> bool:
    async with connected(_ROLE) as at:
        history = PostgresHistory(at.ledger.pool, sealed=True)
        if found := await history.event(id_):
            await _print_all(history, found[0], [found[2]])
            return True
        state = await history.question(id_)
        if state is None:
            return False
        async for seen in follow(history, id_, every_s=_POLL_S):
            await _print_all(history, state.run_no, seen.events)
            if not follow_:
                break
        await _print_all(history, state.run_no, await history.labels(state.run_no, id_))
        return True


async def _print_all(
    history: PostgresHistory, run_no: int, found: list[StoredEvent] | tuple[StoredEvent, ...]
) -> None:
    effects: dict[UUID, list[Effect]] = {}
    for effect in await history.effects(run_no, [event.id for event in found]):
        effects.setdefault(effect.event_id, []).append(effect)
    for event in found:
        whole = {
            **told(event),
            "topic": event.topic,
            "attempt": event.attempt,
            "effects": [_told_effect(effect) for effect in effects.get(event.id, [])],
        }
        _print_whole(whole)


def _told_effect(effect: Effect) -> dict[str, Any]:
    reply = msgspec.json.decode(effect.result) if effect.result is not None else None
    return {
        "ordinal": effect.ordinal,
        "kind": effect.kind,
        "policy": effect.policy,
        "at": effect.at,
        "sealed": effect.sealed,
        "reply": reply,
    }


def _print_short(event: SeenEvent) -> None:
    if not sys.stdout.isatty():
        line = {
            "id": event.id,
            "type": event.type,
            "at": event.at,
            "question": event.correlation,
            "stream": event.stream,
            "seq": event.seq,
            "data": msgspec.json.decode(event.body) if event.body is not None else None,
        }
        print(msgspec.json.encode(line).decode(), flush=True)
        return
    question = event.correlation or event.stream
    console().print(
        f"{event.at:%H:%M:%S} {question} {event.type:<22} [dim]{event.id}[/]", highlight=False
    )


def _print_whole(event: dict[str, Any]) -> None:
    if not sys.stdout.isatty():
        print(msgspec.json.encode(event).decode(), flush=True)
        return
    out = console()
    where = "question" if event["rollout"] is None else f"attempt {event['rollout'] + 1}"
    travels = f" -> {event['topic']}" if event["topic"] else ""
    out.print(f"[bold]{event['at']:%F %T}  {where}  {event['type']}[/]{travels}")
    out.print(f"  [dim]id {event['id']}, from {event['cause'] or 'outside or a join'}[/]")
    data = event["data"]
    fields = {"payload": "(erased)"} if data is None else data
    for name, value in fields.items():
        if name != "type":
            out.print(f"  {escape(name)}: {escape(_short(value))}")
    for effect in event["effects"]:
        reply = "(sealed)" if effect["sealed"] else _short(effect["reply"])
        out.print(f"  [cyan]{effect['ordinal']} {effect['kind']}[/] {escape(reply)}")


def _short(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _WIDE else f"{text[:_WIDE]} … ({len(text)} characters)"
