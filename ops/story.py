"""What happens to a run's questions, told event by event and summed up at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

from schemas import events as ev
from schemas.envelope import decode_payload
from storage.postgres.watch import SeenEvent

__all__ = ["Line", "Story", "Told"]

_WIDE = 96
_Saying: TypeAlias = tuple[str, str, str]  # what, a little of it, style


@dataclass(frozen=True)
class Line:
    """A line of the log: who (`Q03.1`: question 3, rollout 1), what, and a little of it."""

    who: str
    what: str
    text: str
    style: str = ""


@dataclass
class Told:
    """A question's part of the story. `ends` counts its answers and stated failures."""

    number: int
    ends: int = 0
    answer: str | None = None
    failure: str = ""
    grade: str = ""
    written: int = 0
    used: set[UUID] = field(default_factory=set)
    over: bool = False


class Story:
    """Turns events into lines, and keeps what became of each question."""

    def __init__(self) -> None:
        self.questions: dict[UUID, Told] = {}
        self._rollouts: dict[UUID, int] = {}
        self._texts: dict[UUID, str] = {}
        self.events = Counter[str]()

    def tell(self, event: SeenEvent) -> Line | None:
        """Return the line for an event; None for what only moves things on."""
        if event.body is None:
            return None
        payload = decode_payload(event.body)
        self.events[event.type] += 1
        question = event.correlation or event.stream
        if isinstance(payload, ev.QuestionAsked):
            self._texts[question] = payload.text
        if isinstance(payload, ev.QuestionOpened):
            self.questions[question] = Told(number=payload.position + 1)
        if isinstance(payload, ev.RolloutOpened):
            self._rollouts[event.stream] = payload.number
        told = self.questions.get(question)
        if told is not None:
            _keep(told, payload)
        said = _said(payload, self._texts.get(question, ""))
        return Line(self._who(event, told), *said) if said else None

    def _who(self, event: SeenEvent, told: Told | None) -> str:
        if told is None:
            return "run"
        number = self._rollouts.get(event.stream)
        return f"Q{told.number:02}" + (f".{number}" if number is not None else "")


def _keep(told: Told, payload: Any) -> None:  # noqa: ANN401 - any of the events
    match payload:
        case ev.RolloutPlanned(memories=memories):
            told.used |= set(memories)
        case ev.QuestionAnswered(answer=answer):
            told.ends, told.answer = told.ends + 1, answer
        case ev.QuestionFailed(reason=reason):
            told.ends, told.failure = told.ends + 1, reason
        case ev.QuestionConsolidated(grade=grade, memories=memories):
            told.grade, told.written, told.over = grade, len(memories), True


def _said(payload: Any, text: str) -> _Saying | None:  # noqa: ANN401 - as above
    said: _Saying | None
    match payload:
        case ev.QuestionOpened():
            said = "question", text, "bold"
        case ev.RolloutPlanned(plan=plan, memories=memories):
            said = "plan", _short(plan or "(empty)") + _from(memories), ""
        case ev.QuestionRouted(order=order) if len(order) > 1:
            said = "route", f"rollout {order[0]} goes first", ""
        case ev.TurnToolCalled(tool=tool, arguments=arguments):
            said = tool, _short(bytes(arguments).decode()), "cyan"
        case ev.ToolReturned(sources=sources, ok=ok):
            said = "found", _short(", ".join(sources) or "nothing"), "cyan" if ok else "yellow"
        case ev.TurnRejected(observation=observation):
            said = "malformed", _short(observation), "yellow"
        case ev.TurnAnswered(answer=answer):
            said = "proposes", _short(answer or "(its turns ran out)"), ""
        case ev.RolloutReplanned(plan=plan):
            said = "replan", _short(plan), ""
        case ev.RolloutProposed() | ev.RolloutFinished():
            said = "reflects", "no further plan is needed or left", "dim"
        case _:
            said = _ending(payload)
    return said


def _ending(payload: Any) -> _Saying | None:  # noqa: ANN401 - as above
    said: _Saying | None = None
    match payload:
        case ev.QuestionAnswered(answer=answer):
            said = "ANSWER", _short(answer), "bold green"
        case ev.QuestionFailed(reason=reason):
            said = "FAILED", reason.replace("_", " "), "bold red"
        case ev.RolloutJudged(grade=grade, judge=judge):
            said = "judged", f"{grade.replace('_', ' ')} (by {judge})", _colour(grade)
        case ev.RolloutFailed(reason=reason, detail=detail):
            said = "broke off", _short(f"{reason} {detail}"), "red"
        case ev.QuestionConsolidated(memories=memories):
            kept = "; ".join(f"{one.outcome}: {one.text}" for one in memories)
            said = "memory", _short(kept or "nothing to keep"), "magenta"
        case ev.LearnerTrained(policy=policy, parent=parent, groups=groups):
            said = "trained", f"{policy} was made of {parent} from {groups} groups", "magenta"
        case ev.LearnerSealed(number=number, generation=generation):
            ready = f"batch {number + 1} became memory generation {generation}{_decided(payload)}"
            said = "learned", ready, "magenta"
        case ev.BatchOpened(number=number, generation=generation):
            said = (
                "batch",
                f"batch {number + 1} starts on memory generation {generation}",
                "magenta",
            )
    return said


def _decided(sealed: ev.LearnerSealed) -> str:
    """What was decided on a new version of the planner, if anything."""
    if sealed.training == "none_configured":
        return ""
    why = "; ".join(sealed.reasons) or sealed.problem
    return _short(f"; training: {sealed.training.replace('_', ' ')}, {sealed.policy} serves. {why}")


def _from(memories: Sequence[UUID]) -> str:
    many = "memory" if len(memories) == 1 else "memories"
    return f"  [from {len(memories)} {many}]" if memories else ""


def _colour(grade: str) -> str:
    return "green" if grade == "correct" else "dim"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDE else f"{flat[: _WIDE - 1]}…"
