"""`mia answers`: answers, judgements and memories, from the ledger, as they come."""

import asyncio
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from ops.cli.waiting import waiting_for
from ops.connected import connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from schemas.envelope import decode_payload
from schemas.events import QuestionConsolidated
from storage.postgres.watch import Feed, PostgresWatch, SeenEvent

__all__ = ["answers"]

_POLL_S = 0.5
#: What is shown of an event of a type: field by heading.
_SHOWN = {
    "question.answered": ("answer", "rollout", "policy", "memories"),
    "question.failed": ("reason", "detail"),
    "rollout.judged": ("grade", "judge"),
    "question.consolidated": ("grade", "memories"),
}


def answers(
    *,
    run: Annotated[str, Parameter(name=["--run", "-r"])] = DEFAULT_RUN,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
) -> None:
    """Print answers, failures, judgements and memories as they come; JSON lines in a pipe.

    Args:
        run: The run.
        follow: Go on as they come, until Ctrl-C.
    """
    waiting_for(_answers(run, follow=follow))


async def _answers(name: str, *, follow: bool) -> None:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, name)
        feed = Feed(PostgresWatch(at.ledger.pool), view.run_no, tuple(_SHOWN))
        while True:
            for event in await feed.fresh():
                _print(event)
            if not follow:
                return
            await asyncio.sleep(_POLL_S)


def _print(event: SeenEvent) -> None:
    told = _told(event)
    if not sys.stdout.isatty():
        print(msgspec.json.encode(told).decode(), flush=True)
        return
    facts = (f"{name}: {told[name]}" for name in _SHOWN[event.type] if told.get(name) is not None)
    console().print(
        f"{event.at:%H:%M:%S} {told['question']} {event.type}  {', '.join(facts)}", markup=False
    )


def _told(event: SeenEvent) -> dict[str, Any]:
    payload = decode_payload(event.body) if event.body else None
    found = {name: getattr(payload, name, None) for name in _SHOWN[event.type]}
    if isinstance(payload, QuestionConsolidated):
        found["memories"] = [memory.text for memory in payload.memories]
    question = str(event.correlation or event.stream)
    return {"at": event.at, "type": event.type, "question": question, **found}
