"""The learning loop over a ledger: real handlers from questions to decisions, nothing but the
models and the trainer scripted.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from consumers import prompts
from consumers.guard import anchor_id
from consumers.stages import STAGES
from consumers.tools.run import run_tool
from mia_events import ids
from mia_events.effect_codec import Reply
from mia_events.effects import Call, Embed, ModelReply, Train, UseTool, Vectors
from mia_events.learning.guard import Anchor, GuardRules
from mia_events.learning.job import Hyper
from mia_events.steps import Manifest, ModelChoice
from schemas.envelope import decode_payload
from schemas.events import LearnerSealed, LearnerTrained, QuestionAnswered, RolloutJudged
from storage.ports import Claimed
from tests.contract.workbench import Workbench
from tests.support.fake_trainer import trained_by
from tests.support.reads import Outside
from tests.support.scripted_replies import (
    asked_by,
    gold_for,
    logprob_of,
    reply_to,
    tokens_of,
    vector_of,
)

ROLES = ("planner", "executor", "judge", "manager", "router", "embedder")
ANCHORS = tuple(
    Anchor(source="held", row=str(row), text=f"Which lake is held back {row}?") for row in range(3)
)
HOLDOUT = (Anchor(source="unseen", row="0", text="Which hill has nobody seen?"),)
QUESTIONS, ROLLOUTS, BATCH = 8, 3, 2


def manifest() -> Manifest:
    """A run of four batches that trains and guards."""
    return Manifest(
        mode="batch",
        deterministic=True,
        rollouts=ROLLOUTS,
        batch_size=BATCH,
        train=True,
        hyper=Hyper(row_tokens=8_192),
        guard="anchors",
        guard_rules=GuardRules(margin=0.2),
        anchors=ANCHORS,
        holdout=HOLDOUT,
        prompts=prompts.load(),
        roles={role: ModelChoice(model=role) for role in ROLES},
        max_turns=3,
    )


class Loop:
    """Takes a run to its end, one command after the other; with `waits`, judges sleep until a label
    is there.
    """

    def __init__(self, workbench: Workbench, run: int, *, waits: bool = False) -> None:
        self._workbench = workbench
        self._run = run
        self._waits = waits
        self.asked: set[str] = set()  #: planners that were asked, by model

    async def to_the_end(self) -> None:
        """Handle whatever is pending until nothing is."""
        streams = await self._streams()
        while pending := [one for stream in streams for one in await self._pending(stream)]:
            for one in pending:
                await self._workbench.handle(await self._workbench.claimed(one.stream), self._reply)
            await self._workbench.ledger.advance(self._run)

    async def _streams(self) -> list[UUID]:
        questions = [await self._workbench.question(self._run, str(n)) for n in range(QUESTIONS)]
        rollouts = [ids.rollout_id(one, number) for one in questions for number in range(ROLLOUTS)]
        run = await self._workbench.ledger.run(self._run)
        return [*questions, *rollouts, ids.learner_id(run.id)]

    async def _pending(self, stream: UUID) -> list[Claimed]:
        found = await self._workbench.ledger.load(self._run, stream)
        return [one for one in found if one.topic in STAGES and not await self._sleeps(one)]

    async def _sleeps(self, command: Claimed) -> bool:
        """As the performer has it, who raises `Late`."""
        if not self._waits or command.parent is None or command.status != "judging":
            return False
        return await self._workbench.labels.label(command.parent) is None

    def _reply(self, effect: Outside) -> Reply:
        match effect:
            case Call():
                return self._said(effect)
            case Embed():
                return Vectors(tuple(map(vector_of, effect.texts)))
            case UseTool():
                return run_tool(effect, ())
            case Train():
                return trained_by(effect.job)

    def _said(self, call: Call) -> ModelReply:
        text = reply_to(asked_by(call))
        if not call.capture_tokens:
            return ModelReply(text=text, model=call.model)
        self.asked.add(call.model)
        prompt = tokens_of(" ".join(message.content for message in call.messages))
        tokens = tokens_of(text)
        return ModelReply(
            text=text,
            model=call.model,
            prompt_ids=tuple(number for number, _ in prompt),
            token_ids=tuple(number for number, _ in tokens),
            logprobs=tuple(logprob_of(token, place) for place, (_, token) in enumerate(tokens)),
            completion_tokens=len(tokens),
        )


async def told(workbench: Workbench, run: int) -> list[Any]:
    """The learner's events, as they lie in the store."""
    learner = ids.learner_id((await workbench.ledger.run(run)).id)
    return [decode_payload(event.body) for event in await workbench.ports.events(learner)]


def of(kind: type[Any], events: Iterable[Any]) -> list[Any]:
    """The events of a kind."""
    return [event for event in events if isinstance(event, kind)]


async def test_batches_become_versions_and_each_is_tried_before_it_serves(
    workbench: Workbench,
) -> None:
    """The registry says what the guard decided; planners that serve are those it promoted."""
    run = await workbench.run(manifest())
    view = await workbench.ledger.run(run)
    for anchor in (*ANCHORS, *HOLDOUT):
        gold = gold_for(anchor.text)
        await workbench.labels.seal(run, anchor_id(view, anchor), gold, source="anchor")
    for row in range(QUESTIONS):
        question = await workbench.question(run, str(row))
        await workbench.labels.seal(run, question, gold_for(f"question {row}?"), source="file")
    await workbench.accept(run, *(str(row) for row in range(QUESTIONS)))
    loop = Loop(workbench, run)
    await loop.to_the_end()
    events = await told(workbench, run)
    trained, sealed = of(LearnerTrained, events), of(LearnerSealed, events)
    assert QUESTIONS // BATCH == len(sealed)
    decided = [one for one in sealed if one.candidate]
    measured = {name: rewards for one in decided for name, rewards in one.holdout.items()}
    assert {"base", *(one.policy for one in trained)} == set(measured)
    assert all(len(HOLDOUT) == len(one) and None not in one for one in measured.values())
    assert [one.policy for one in trained] == [one.candidate for one in decided]
    assert len(decided) >= 3
    assert all(one.reasons and one.best for one in decided)
    states = {row.name: row.state for row in await workbench.policies.list(run)}
    promoted = {one.candidate for one in decided if one.training == "promoted"}
    assert promoted == {name for name, state in states.items() if state != "held_back"}
    assert {"planner"} | {one.candidate for one in decided} == loop.asked
    used = [one for row in range(QUESTIONS) for one in await _pin(workbench, run, row)]
    assert set(used) <= {"base"} | promoted
    written = msgspec.json.encode(sealed).decode()
    assert not [anchor for anchor in ANCHORS if gold_for(anchor.text) in written]


async def _pin(workbench: Workbench, run: int, row: int) -> list[str]:
    question = await workbench.question(run, str(row))
    events = [decode_payload(event.body) for event in await workbench.ports.events(question)]
    return [event.policy for event in events if hasattr(event, "policy")]


async def test_a_label_that_comes_after_the_answer_still_trains(workbench: Workbench) -> None:
    """All answers are there before any label; the batch whose labels come becomes a version."""
    waiting = {"deterministic": False, "label_wait_s": 3_600.0, "guard": "off", "anchors": ()}
    run = await workbench.run(msgspec.structs.replace(manifest(), **waiting, holdout=()))
    await workbench.accept(run, *(str(row) for row in range(QUESTIONS)))
    loop = Loop(workbench, run, waits=True)
    await loop.to_the_end()
    first = [await workbench.question(run, str(row)) for row in range(BATCH)]
    told_first = [decode_payload(one.body) for one in await workbench.ports.events(first[0])]
    assert of(QuestionAnswered, told_first)
    assert [] == of(LearnerSealed, await told(workbench, run))
    for row, question in enumerate(first):
        await workbench.labels.seal(run, question, gold_for(f"question {row}?"), source="late")
    await loop.to_the_end()
    events = await told(workbench, run)
    (made,), (sealed,) = of(LearnerTrained, events), of(LearnerSealed, events)
    assert ("planner@v1", 0, "promoted") == (made.policy, made.number, sealed.training)
    judged = await workbench.ports.events(ids.rollout_id(first[0], 0))
    assert ["label"] == [one.basis for one in of(RolloutJudged, map(_payload, judged))]


def _payload(event: Any) -> Any:
    return decode_payload(event.body)


async def test_a_run_without_labels_makes_no_version(workbench: Workbench) -> None:
    """What nobody judged is not wrong: there is no reward, and no update on a guess."""
    run = await workbench.run(manifest())
    await workbench.accept(run, *(str(row) for row in range(QUESTIONS)))
    await Loop(workbench, run).to_the_end()
    found = [(one.training, one.candidate) for one in of(LearnerSealed, await told(workbench, run))]
    assert [("skipped", "")] * (QUESTIONS // BATCH) == found
