"""Performs effects with the scripted model, and keeps account of every call."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from consumers.runner.drive import INTENT
from consumers.tools.run import run_tool
from mia_events.effect_codec import Reply, request_sha
from mia_events.effects import AnyEffect, Call, Embed, ModelReply, Train, UseTool, Vectors
from mia_events.steps import Late, Task, Transient
from storage.inmemory.state import Database
from storage.ports import LabelStore, Ledger, MemoryStore
from tests.simulation.process import Process, World
from tests.support.fake_trainer import trained_by
from tests.support.reads import Outside, read
from tests.support.scripted_replies import asked_by, logprob_of, reply_to, tokens_of, vector_of

__all__ = ["Account", "ChildDied", "Performer", "alone", "reply_of"]

#: A command is failed at most so often, far below what dead-letters it.
_MOST_FAILURES = 3


@dataclass
class Account:
    """Calls by (command, request), and those that had a record before they were made."""

    calls: Counter[tuple[UUID, bytes]] = field(default_factory=Counter)
    unrepeatable: Counter[tuple[UUID, bytes]] = field(default_factory=Counter)
    failed: Counter[UUID] = field(default_factory=Counter)
    repeated: list[str] = field(default_factory=list)


class ChildDied(BaseException):
    """An isolated attempt ended its process; its parent lives."""


#: True in an attempt that runs alone.
alone: ContextVar[bool] = ContextVar("alone", default=False)


class Performer:
    """The `Performer` of one process."""

    def __init__(
        self,
        process: Process,
        world: World,
        db: Database,
        account: Account,
        ledger: Ledger,
        memory: MemoryStore,
        labels: LabelStore,
        *,
        moody: bool,
        deadly_rate: float,
    ) -> None:
        self._process = process
        self._world = world
        self._db = db
        self._account = account
        self._ledger = ledger
        self._memory = memory
        self._labels = labels
        self._moody = moody
        self._deadly_rate = deadly_rate

    async def perform(self, effect: AnyEffect, task: Task) -> Reply:
        """See the port."""
        if isinstance(effect, Outside):
            return await self._call(effect, task)
        return await read(effect, self._ledger, self._memory, self._labels)

    async def _call(self, effect: Outside, task: Task) -> Reply:
        """A call of something outside, which costs and may fail."""
        self._count(effect, task)
        self._dies_of(effect)
        world = self._world
        await self._process.gate("before a call")
        await asyncio.sleep(world.pause(world.faults.model_s))
        await self._process.gate("after a call")
        if self._account.failed[task.event_id] < _MOST_FAILURES:
            if world.chance(world.faults.transient_rate):
                self._account.failed[task.event_id] += 1
                raise Transient("the model is busy")
            if world.chance(world.faults.late_rate):
                self._account.failed[task.event_id] += 1
                raise Late("the model is loading", world.random.uniform(0.1, 2.0))
        return reply_of(self._in_a_mood(effect) if self._moody else effect)

    def _dies_of(self, effect: Outside) -> None:
        """Some requests end whoever makes them: the process, or the child that runs one alone."""
        if not isinstance(effect, Call) or effect.role != "executor":
            return
        if int.from_bytes(request_sha(effect)[:2], "big") >= self._deadly_rate * 65_536:
            return
        if alone.get():
            raise ChildDied
        self._process.kill("of its own command")
        raise asyncio.CancelledError

    def _in_a_mood(self, effect: Outside) -> Outside:
        """Another request than the one that was made, with as good an answer."""
        match effect:
            case Call():
                return msgspec.structs.replace(effect, seed=self._world.random.getrandbits(31))
            case Embed(texts=texts):
                more = self._world.random.choice(["", " indeed", " then"])
                return msgspec.structs.replace(effect, texts=tuple(t + more for t in texts))
            case UseTool() | Train():
                return effect

    def _count(self, effect: Outside, task: Task) -> None:
        sha = request_sha(effect)
        self._account.calls[task.event_id, sha] += 1
        if isinstance(effect, UseTool) and not effect.idempotent:
            self._account.unrepeatable[task.event_id, sha] += 1
        for ordinal in sorted(self._process.known.get(task.event_id, ())):
            row = self._db.effects[task.event_id, ordinal]
            if row.request_sha == sha and row.kind != INTENT:
                self._account.repeated.append(
                    f"{row.kind} of {type(task.command).__name__} {task.event_id} was made again "
                    f"by {self._process.name} at {self._world.loop.time():.3f}, although ordinal "
                    f"{ordinal} was recorded when it took the command"
                )


def reply_of(effect: Outside) -> Reply:
    """What the world outside says: a function of the request."""
    match effect:
        case Call():
            return _said(effect)
        case Embed():
            return Vectors(tuple(map(vector_of, effect.texts)))
        case UseTool():
            return run_tool(effect, ())
        case Train():
            return trained_by(effect.job)


def _said(call: Call) -> ModelReply:
    reply = ModelReply(text=reply_to(asked_by(call)), model=call.model)
    if not call.capture_tokens:
        return reply
    prompt = tokens_of(" ".join(message.content for message in call.messages))
    tokens = tokens_of(reply.text)
    return msgspec.structs.replace(
        reply,
        prompt_ids=tuple(number for number, _ in prompt),
        token_ids=tuple(number for number, _ in tokens),
        logprobs=tuple(logprob_of(token, place) for place, (_, token) in enumerate(tokens)),
        completion_tokens=len(tokens),
    )
