"""Questions whose models write nothing but malformed replies end, and the store takes every row."""

from typing import Any
from uuid import UUID

import pytest

from consumers import prompts
from consumers.effects.openai_wire import read_completion
from consumers.stages import STAGES
from mia_events import ids
from mia_events.effect_codec import Reply
from mia_events.effects import Call, Embed, Memories, Recall, ToolResult, Train, UseTool, Vectors
from mia_events.steps import Manifest, ModelChoice
from schemas.envelope import decode_payload
from schemas.events import (
    Payload,
    QuestionConsolidated,
    QuestionFailed,
    RolloutJudged,
    RolloutPlanned,
)
from storage.ports import Claimed
from tests.contract.workbench import Workbench
from tests.support.malformed import TEXTS, body_of
from tests.support.reads import Outside

ROLES = ("planner", "executor", "judge", "manager", "router", "embedder")
ANSWERED = '{"thought": "t", "action": "answer", "answer": "Scott"}'
VECTOR = (1.0, *(0.0,) * 383)


def manifest(**changes: Any) -> Manifest:
    """A live run of two rollouts a question, with few turns."""
    roles = {role: ModelChoice(model=role) for role in ROLES}
    values = {"rollouts": 2, "prompts": prompts.load(), "roles": roles, "max_turns": 2}
    return Manifest(**{**values, **changes})


class Walk:
    """Takes a question through its stages with one reply for every call."""

    def __init__(self, workbench: Workbench, run: int, text: str, *, executor: str) -> None:
        self._workbench = workbench
        self._run = run
        self._text = text
        self._executor = executor

    async def to_the_end(self, question: UUID) -> None:
        """Handle whatever is pending until nothing is."""
        streams = [question, *(ids.rollout_id(question, number) for number in range(2))]
        while pending := [one for stream in streams for one in await self._pending(stream)]:
            for one in pending:
                await self._workbench.handle(await self._workbench.claimed(one.stream), self._reply)

    async def _pending(self, stream: UUID) -> list[Claimed]:
        found = await self._workbench.ledger.load(self._run, stream)
        return [one for one in found if one.topic in STAGES]

    def _reply(self, effect: Outside) -> Reply:
        match effect:
            case Call():
                executes = effect.role == "executor"
                text = self._executor if executes and self._executor else self._text
                return read_completion(body_of(text), effect)
            case Embed():
                return Vectors((VECTOR,))
            case UseTool():
                return ToolResult(ok=True, text="a\x00\ud7ffb", sources=("\x00Page",))
            case Train():
                raise TypeError(effect)


async def told(workbench: Workbench, stream: UUID) -> list[Payload]:
    """The events of a stream, as they lie in the store."""
    return [decode_payload(event.body) for event in await workbench.ports.events(stream)]


@pytest.mark.parametrize("grammar", ["json", "tags"])
async def test_a_question_whose_models_write_nonsense_fails_for_a_stated_reason(
    workbench: Workbench, grammar: str
) -> None:
    """Every kind of nonsense, in every role; what was tried is a memory of a failure."""
    run = await workbench.run(manifest(executor_grammar=grammar))
    for place, text in enumerate(TEXTS.values()):
        await workbench.accept(run, str(place))
        question = await workbench.question(run, str(place))
        await Walk(workbench, run, text, executor="").to_the_end(question)
        events = await told(workbench, question)
        failed = [event for event in events if isinstance(event, QuestionFailed)]
        assert ["no_rollout_left"] == [event.reason for event in failed]
        last = events[-1]
        assert isinstance(last, QuestionConsolidated)
        assert "unjudged" == last.grade
        assert await workbench.ended(run, question)
        for number in range(2):
            log = await told(workbench, ids.rollout_id(question, number))
            assert "not_attempted" == [e for e in log if isinstance(e, RolloutJudged)][-1].grade
            (plan,) = (event for event in log if isinstance(event, RolloutPlanned))
            assert bool(plan.plan) != bool(plan.problem)


@pytest.mark.parametrize("kind", ["supervised", "unsupervised"])
async def test_an_answer_that_no_judge_can_grade_is_unjudged(
    workbench: Workbench, kind: str
) -> None:
    """The answer stands; it is neither right nor wrong, and leaves no memory."""
    run = await workbench.run(manifest(judge=kind))
    for place, text in enumerate(TEXTS.values()):
        await workbench.accept(run, str(place))
        question = await workbench.question(run, str(place))
        await workbench.labels.seal(run, question, "Walter Scott", source="file")
        await Walk(workbench, run, text, executor=ANSWERED).to_the_end(question)
        last = (await told(workbench, question))[-1]
        assert QuestionConsolidated(grade="unjudged") == last
        for number in range(2):
            event = (await told(workbench, ids.rollout_id(question, number)))[-1]
            assert isinstance(event, RolloutJudged)
            assert "unjudged" == event.grade
            assert event.reason.endswith("malformed")
    empty = Recall(scope=(await workbench.ledger.run(run)).scope, vector=VECTOR, generation=None)
    assert Memories(()) == await workbench.memory.recall(empty)
