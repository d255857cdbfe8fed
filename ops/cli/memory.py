"""`mia memory list|search`."""

import sys
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from consumers.effects.model_client import ModelClient
from mia_events.effects import Embed, Recall, Remembered
from ops.cli.connected import connected, home_of, run_named, waiting_for
from ops.cli.stack_view import console
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused
from ops.models import endpoints, ports_in_use
from storage.postgres.memory import PostgresMemory
from storage.postgres.watch import MemoryRow, PostgresWatch

__all__ = ["register"]

_memory = App(name="memory", help="Look at what was learned.")
_RunName = Annotated[str, Parameter(name=["--run", "-r"])]


def register(app: App) -> None:
    """Add these commands."""
    app.command(_memory)


@_memory.command(name="list")
def list_memories(*, run: _RunName = DEFAULT_RUN, limit: int = 50) -> None:
    """List a run's memories, newest first; JSON lines in a pipe.

    Args:
        run: The run.
        limit: How many.
    """
    for memory in waiting_for(_list(run, limit)):
        _print(memory, f"{memory.outcome}, used {memory.uses}, won {memory.wins}")


@_memory.command
def search(text: str, /, *, run: _RunName = DEFAULT_RUN, limit: int = 5) -> None:
    """Search a run's memories as the planner does: by what a question means, then by record.

    Args:
        text: A question.
        run: The run.
        limit: How many of each outcome.
    """
    for memory in waiting_for(_search(text, run, limit)):
        _print(memory, f"{memory.outcome}, score {memory.score:.3f}")


async def _list(name: str, limit: int) -> list[MemoryRow]:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, name)
        return await PostgresWatch(at.ledger.pool).memories(view.scope, limit)


async def _search(text: str, name: str, limit: int) -> tuple[Remembered, ...]:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, name)
        where = endpoints(at.settings, ports_in_use(home_of(at.settings)))
        if "embedder" not in where:
            raise Refused("no embedder is served", "Start it (`mia up`), or set its base_url.")
        model = view.manifest.roles["embedder"].model
        async with ModelClient({"embedder": where["embedder"]}) as models:
            (vector,) = (await models.embed(Embed(model=model, texts=(text,)))).vectors
        wanted = Recall(
            scope=view.scope, vector=vector, generation=None, successes=limit, failures=limit
        )
        return (await PostgresMemory(at.ledger.pool).recall(wanted)).items


def _print(memory: MemoryRow | Remembered, remark: str) -> None:
    if not sys.stdout.isatty():
        print(msgspec.json.encode(memory).decode())
        return
    console().print(f"{memory.id} ({remark})\n  {memory.question}", markup=False)
    for line in memory.text.splitlines():
        console().print(f"    {line}", markup=False)
