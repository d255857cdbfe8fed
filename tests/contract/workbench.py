"""Short words for what the contract tests do to a ledger, on any implementation."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from consumers.runner.drive import Drive
from consumers.stages import STAGES
from mia_events import ids
from mia_events.commits import Guard, StepCommit, step_commit
from mia_events.effect_codec import Reply, encode_reply, request_sha
from mia_events.effects import Call, Message, ModelReply
from mia_events.lifecycle import Kind
from mia_events.steps import Manifest, MemoryWrite, Order, PolicyWrite, Step, Task
from schemas import events as ev
from schemas.envelope import decode_payload, encode_payload
from schemas.events import Event, MemoryCandidate
from storage.ports import (
    Claimed,
    CommitResult,
    EffectRow,
    Emitted,
    LabelStore,
    Ledger,
    MemoryStore,
    NewQuestion,
    PendingCommit,
    Policies,
    Want,
)
from tests.support.ports import Ports
from tests.support.reads import Outside, read

__all__ = ["LEASE", "Workbench", "candidate", "new_question"]

#: Long enough that no lease ends during a test, unless it says so.
LEASE = 60.0


def new_question(run: UUID, row: str, position: int | None = None) -> NewQuestion:
    """A question of source "s" for a run."""
    return NewQuestion(
        id=ids.question_id(run, "s", row),
        source="s",
        row=row,
        pass_no=0,
        position=position,
        body=encode_payload(ev.QuestionAsked(text=f"question {row}?", source="s", row=row)),
    )


def candidate(key: str, text: str, outcome: str = "success", angle: float = 1.0) -> MemoryCandidate:
    """A memory whose vector has cosine `angle` with the first axis (384 dimensions)."""
    side = max(0.0, 1.0 - angle * angle) ** 0.5
    return MemoryCandidate(
        dedupe_key=key,
        text=text,
        question=f"about {key}",
        outcome="success" if outcome == "success" else "failure",
        rollout=0,
        vector=(angle, side, *(0.0,) * 382),
    )


@dataclass
class Workbench:
    """An implementation with a run, claims that count up, and steps in one line."""

    ports: Ports
    claims: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    run_numbers: list[int] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        """The ledger under test."""
        return self.ports.ledger

    @property
    def memory(self) -> MemoryStore:
        """The memories under test."""
        return self.ports.memory

    @property
    def policies(self) -> Policies:
        """The registry of planner versions under test."""
        return self.ports.policies

    @property
    def labels(self) -> LabelStore:
        """The labels under test."""
        return self.ports.labels

    async def run(self, manifest: Manifest | None = None, *, questions: int = 0) -> int:
        """A run with some questions accepted; its number."""
        run_no = await self.ports.new_run(manifest or Manifest(rollouts=4))
        self.run_numbers.append(run_no)
        if questions:
            await self.accept(run_no, *(str(row) for row in range(questions)))
        return run_no

    async def accept(self, run_no: int, *rows: str) -> list[Emitted]:
        """Accept questions named by their rows; what was emitted."""
        run = await self.ledger.run(run_no)
        accepted = await self.ledger.accept(run_no, [new_question(run.id, row) for row in rows])
        assert accepted.outcomes == ("accepted",) * len(rows)
        return list(accepted.emitted)

    async def question(self, run_no: int, row: str) -> UUID:
        """The id of a question."""
        return new_question((await self.ledger.run(run_no)).id, row).id

    async def claim(self, stream: UUID, *, lease_s: float = LEASE) -> Claimed | None:
        """Claim a stream's pending command as it stands; None when it is not granted."""
        loaded = await self.stand(stream)
        want = Want(stream=stream, version=loaded.version, claim=next(self.claims))
        return next(iter(await self.ledger.claim([want], lease_s=lease_s)), None)

    async def claimed(self, stream: UUID, *, lease_s: float = LEASE) -> Claimed:
        """Claim, and insist."""
        granted = await self.claim(stream, lease_s=lease_s)
        assert granted is not None, await self.stand(stream)
        return granted

    async def stand(self, stream: UUID) -> Claimed:
        """An unfinished stream of this test's runs as it stands."""
        for number in self.run_numbers:
            if found := await self.ledger.load(number, stream):
                return found[0]
        raise AssertionError(f"{stream} has ended")

    async def ended(self, run_no: int, stream: UUID) -> bool:
        """True when a stream is over."""
        return not await self.ledger.load(run_no, stream)

    async def task(self, claimed: Claimed) -> Task:
        """The task of a claim."""
        parent = claimed.parent
        return Task(
            run=await self.ledger.run(claimed.run_no),
            question=await self.ledger.question(parent) if parent is not None else None,
            stream=claimed.stream,
            kind=claimed.kind,
            status=claimed.status,
            version=claimed.version,
            event_id=claimed.event_id,
            history=tuple(decode_payload(body) for body in claimed.history),
        )

    async def resolve(
        self,
        claimed: Claimed,
        event: Event,
        *orders: Order,
        memory: MemoryWrite | None = None,
        policy: PolicyWrite | None = None,
        guard: Guard = Guard.CLAIM,
        next_claim: int | None = None,
    ) -> StepCommit:
        """The commit of a step under a claim."""
        return step_commit(
            await self.task(claimed),
            Step(event=event, orders=orders, memory=memory, policy=policy),
            claim=claimed.claim,
            attempt=claimed.attempt,
            guard=guard,
            next_claim=next_claim,
        )

    async def commit(self, *units: PendingCommit) -> CommitResult:
        """Commit a group."""
        return await self.ledger.commit(units, lease_s=LEASE)

    async def step(
        self,
        stream: UUID,
        event: Event,
        *orders: Order,
        memory: MemoryWrite | None = None,
        policy: PolicyWrite | None = None,
    ) -> CommitResult:
        """Claim a stream and commit one step of it, which must succeed."""
        claimed = await self.claimed(stream)
        step = await self.resolve(claimed, event, *orders, memory=memory, policy=policy)
        result = await self.commit(PendingCommit(step=step))
        assert result.outcomes == ("committed",)
        return result

    async def handle(self, claimed: Claimed, reply: Callable[[Outside], Reply]) -> None:
        """Take a step with its real handler. What is read of ledger, memories and labels they
        answer themselves, `reply` everything else.
        """
        task = await self.task(claimed)
        drive = Drive(STAGES[claimed.topic][type(task.command)], task)
        while drive.step is None:
            for ask in drive.asks:
                if isinstance(ask.effect, Outside):
                    drive.give(ask, reply(ask.effect))
                else:
                    drive.give(ask, await read(ask.effect, self.ledger, self.memory, self.labels))
        step = step_commit(task, drive.step, claim=claimed.claim, attempt=claimed.attempt)
        unit = PendingCommit(effects=drive.take(), step=step)
        assert ("committed",) == (await self.commit(unit)).outcomes

    async def effect(self, claimed: Claimed, text: str, ordinal: int = 0) -> EffectRow:
        """A recorded call whose reply is `text`."""
        call = Call(role="planner", model="m", messages=(Message("user", "?"),), max_tokens=1)
        return EffectRow(
            run_no=claimed.run_no,
            event_id=claimed.event_id,
            ordinal=ordinal,
            kind="call",
            request_sha=request_sha(call),
            result=encode_reply(call, ModelReply(text=text)),
        )

    # --- a question's way ------------------------------------------------------------------------

    async def fan_out(self, question: UUID, g: int) -> list[UUID]:
        """Open `g` rollouts; their ids."""
        rollouts = [ids.rollout_id(question, number) for number in range(g)]
        orders = [
            Order(
                kind=Kind.ROLLOUT,
                stream=rollout,
                event=ev.RolloutOpened(number=number, generation=0),
                number=number,
            )
            for number, rollout in enumerate(rollouts)
        ]
        await self.step(question, ev.QuestionFannedOut(rollouts=g), *orders)
        return rollouts

    async def plan(self, *rollouts: UUID) -> CommitResult:
        """Plan rollouts; the last commit's result."""
        results = [await self.step(rollout, ev.RolloutPlanned(plan="p")) for rollout in rollouts]
        return results[-1]

    async def choose(self, question: UUID, rollouts: list[UUID]) -> None:
        """Route to the rollouts in their order; the first runs."""
        order = Order(
            kind=Kind.ROLLOUT,
            stream=rollouts[0],
            event=ev.RolloutChosen(role="candidate"),
            when=frozenset({"planned"}),
        )
        await self.step(question, ev.QuestionRouted(order=tuple(range(len(rollouts)))), order)

    async def propose(self, rollout: UUID, answer: str = "a") -> CommitResult:
        """Run a chosen candidate to its proposal."""
        await self.step(rollout, ev.TurnAnswered(turn=1, text="t", answer=answer))
        return await self.step(rollout, ev.RolloutProposed(answer=answer))

    async def answer(self, question: UUID, rollouts: list[UUID], official: int = 0) -> CommitResult:
        """Commit the official answer; the candidate is submitted, the siblings start."""
        siblings = [
            Order(
                kind=Kind.ROLLOUT,
                stream=rollout,
                event=ev.RolloutChosen(role="sibling"),
                when=frozenset({"planned"}),
            )
            for number, rollout in enumerate(rollouts)
            if number != official
        ]
        submitted = Order(
            kind=Kind.ROLLOUT,
            stream=rollouts[official],
            event=ev.RolloutSubmitted(),
            when=frozenset({"proposed"}),
        )
        answered = ev.QuestionAnswered(answer="a", rollout=official)
        return await self.step(question, answered, submitted, *siblings)

    async def finish(self, rollout: UUID) -> CommitResult:
        """Run a sibling to its grade."""
        await self.step(rollout, ev.TurnAnswered(turn=1, text="t", answer="b"))
        await self.step(rollout, ev.RolloutFinished(answer="b"))
        return await self.judge(rollout)

    async def judge(self, rollout: UUID) -> CommitResult:
        """Grade a rollout."""
        return await self.step(rollout, ev.RolloutJudged(grade="correct", judge="j"))

    async def fail(self, rollout: UUID) -> CommitResult:
        """End a rollout as failed."""
        return await self.step(rollout, ev.RolloutFailed(reason="no_answer"))

    async def through(self, question: UUID, g: int = 1) -> CommitResult:
        """Run a question from its opening to its end."""
        rollouts = await self.fan_out(question, g)
        await self.plan(*rollouts)
        await self.choose(question, rollouts)
        await self.propose(rollouts[0])
        await self.answer(question, rollouts)
        for rollout in rollouts[1:]:
            await self.finish(rollout)
        await self.judge(rollouts[0])
        return await self.step(question, ev.QuestionConsolidated(grade="correct"))
