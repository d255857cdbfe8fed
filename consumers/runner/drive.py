"""A handler, driven without IO: what to perform next, what to record first, and when it is done.

The caller performs what `asks` lists, hands each reply to `give`, and writes what `take` returns:
whenever `must_record` says so (before it performs anything more), and with the step's commit.
After a crash, or when another worker's record was found first, a new `Drive` over the recorded rows
arrives at the same point.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec

from mia_events.effect_codec import Reply, decode_reply, effect_kind, encode_reply, request_sha
from mia_events.effects import SEALING, UNRECORDED, AnyEffect, ModelReply, Together, UseTool
from mia_events.effects import Effect as BaseEffect
from mia_events.steps import Handler, NonDeterminism, OutcomeUnknown, Step, Task
from storage.ports import EffectRow

#: The kind of a row that says "about to be done": written before a call that must not be repeated.
INTENT: Final = "intent"


class Ask(msgspec.Struct, frozen=True):
    """An effect to be performed, and the ordinal of its record."""

    ordinal: int
    effect: AnyEffect
    sealed: bool = False


class Drive:
    """One attempt at one command.

    `step` is set when the handler is done; until then `asks` is what it waits for. A reply goes to
    the handler once all that were asked for together are there.
    """

    __slots__ = (
        "_claim", "_group", "_intents", "_missing", "_next", "_plan", "_recorded", "_replies",
        "_sealed", "_seen", "_task", "_unsaved", "asks", "step",
    )  # fmt: skip

    def __init__(
        self, handler: Handler, task: Task, recorded: Iterable[EffectRow] = (), *, claim: int = 0
    ) -> None:
        """Start the handler. Raises what it raises, `NonDeterminism` and `OutcomeUnknown`.

        `claim` signs intents, so that of two workers at one command only one may call.
        """
        self.step: Step | None = None
        self.asks: tuple[Ask, ...] = ()
        self._task = task
        self._recorded = {row.ordinal: row for row in recorded}
        self._claim = claim
        self._plan = handler(task)
        self._group = False
        self._replies: dict[int, Reply | None] = {}
        self._missing = 0
        self._next = 0
        self._seen = 0  # recorded rows that the handler has asked for
        self._sealed = False
        self._unsaved: list[EffectRow] = []
        self._intents = False
        self._resume(None)

    @property
    def must_record(self) -> bool:
        """True when what `take` returns has to be recorded before anything else is performed."""
        if not self._unsaved or self.step is not None:
            return False
        return self._intents or any(type(ask.effect) not in UNRECORDED for ask in self.asks)

    def take(self) -> tuple[EffectRow, ...]:
        """The rows that nobody has been told to record yet; the caller records them now."""
        rows = tuple(self._unsaved)
        self._unsaved.clear()
        self._intents = False
        return rows

    def give(self, ask: Ask, reply: Reply) -> None:
        """Answer one of `asks`; the handler goes on when the last one is answered.

        Raises what the handler raises, `NonDeterminism`, `OutcomeUnknown`, and `TypeError` for a
        reply of the wrong type.
        """
        if ask not in self.asks:
            message = f"ordinal {ask.ordinal} ({effect_kind(ask.effect)}) is not being waited for"
            raise ValueError(message)
        if type(ask.effect) not in UNRECORDED:
            self._unsaved.append(self._row(ask, reply))
        self._answer(ask.ordinal, reply)
        self.asks = tuple(other for other in self.asks if other is not ask)
        if not self._missing:
            self._resume(self._reply())

    def close(self) -> None:
        """Abandon the handler."""
        self._plan.close()

    # --- the handler -----------------------------------------------------------------------------

    def _resume(self, reply: Reply | tuple[Reply, ...] | None) -> None:
        while True:
            try:
                wanted = self._plan.send(reply)
            except StopIteration as finished:
                self._finish(finished.value)
                return
            self.asks = self._open(wanted)
            if self._missing:
                return
            reply = self._reply()

    def _finish(self, step: object) -> None:
        if not isinstance(step, Step):
            message = f"a handler returns a Step, got {type(step).__name__}: {self._where()}"
            raise TypeError(message)
        if self._seen < len(self._recorded):
            message = (
                f"{len(self._recorded)} effects are recorded, the handler asked for {self._seen} "
                f"of them: {self._where()}"
            )
            raise NonDeterminism(message)
        self.asks = ()
        self.step = step

    def _open(self, wanted: object) -> tuple[Ask, ...]:
        """Give ordinals to what the handler wants, answer what is recorded, return the rest."""
        effects = wanted.effects if isinstance(wanted, Together) else (wanted,)
        self._group = isinstance(wanted, Together)
        self._replies = {}
        self._missing = 0
        asks = (self._look_up(effect) for effect in effects)
        return tuple(ask for ask in asks if ask is not None)

    def _look_up(self, effect: object) -> Ask | None:
        if not isinstance(effect, BaseEffect):
            message = (
                f"a handler yields an effect or Together((effect, ...)), "
                f"got {type(effect).__name__}: {self._where()}"
            )
            raise TypeError(message)
        ask = self._numbered(cast(AnyEffect, effect))
        row = self._recorded.get(ask.ordinal) if self._recorded else None
        if row is None:
            self._replies[ask.ordinal] = None
            self._missing += 1
            return ask
        self._check(row, effect_kind(ask.effect), request_sha(ask.effect))
        self._replies[ask.ordinal] = decode_reply(ask.effect, row.result)
        return None

    def _numbered(self, effect: AnyEffect) -> Ask:
        if isinstance(effect, UseTool) and not effect.idempotent:
            self._declare(effect)
        self._sealed = self._sealed or type(effect) in SEALING
        ask = Ask(self._next, effect, self._sealed)
        self._next += 1
        return ask

    def _declare(self, effect: UseTool) -> None:
        """The intent takes an ordinal of its own, before that of the call it announces."""
        ordinal, sha = self._next, request_sha(effect)
        self._next += 1
        row = self._recorded.get(ordinal)
        if row is None:
            self._intents = True
            self._unsaved.append(self._record(ordinal, INTENT, sha, b"%d" % self._claim))
            return
        self._check(row, INTENT, sha)
        if ordinal + 1 not in self._recorded:
            message = (
                f"tool {effect.tool!r} was about to be called and left no result: it may have "
                f"happened, and is not declared safe to repeat: {self._where()}"
            )
            raise OutcomeUnknown(message)

    def _check(self, row: EffectRow, kind: str, sha: bytes) -> None:
        if row.kind != kind or row.request_sha != sha:
            message = (
                f"effect {row.ordinal} was {row.kind} {row.request_sha.hex()[:12]}, the handler "
                f"now asks for {kind} {sha.hex()[:12]}: {self._where()}"
            )
            raise NonDeterminism(message)
        self._seen += 1

    # --- replies and rows ------------------------------------------------------------------------

    def _answer(self, ordinal: int, reply: Reply) -> None:
        self._replies[ordinal] = reply
        self._missing -= 1

    def _reply(self) -> Reply | tuple[Reply, ...] | None:
        # The keys were put in in the order of the ordinals.
        replies = cast(tuple[Reply, ...], tuple(self._replies.values()))
        return replies if self._group else replies[0]

    def _row(self, ask: Ask, reply: Reply) -> EffectRow:
        result = encode_reply(ask.effect, reply)
        policy = reply.model or None if isinstance(reply, ModelReply) else None
        sha = request_sha(ask.effect)
        return self._record(
            ask.ordinal, effect_kind(ask.effect), sha, result, sealed=ask.sealed, policy=policy
        )

    def _record(
        self,
        ordinal: int,
        kind: str,
        sha: bytes,
        result: bytes,
        *,
        sealed: bool | None = None,
        policy: str | None = None,
    ) -> EffectRow:
        return EffectRow(
            run_no=self._task.run.run_no,
            event_id=self._task.event_id,
            ordinal=ordinal,
            kind=kind,
            request_sha=sha,
            result=result,
            sealed=self._sealed if sealed is None else sealed,
            policy=policy,
        )

    def _where(self) -> str:
        name = type(self._task.command).__name__
        return f"{name} {self._task.event_id} of {self._task.kind.name.lower()} {self._task.stream}"


__all__ = ["INTENT", "Ask", "Drive"]
