"""How stages word what they ask of a model: a run's prompts, settings and seeds."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from consumers.tools import TOOLS, Tool
from mia_events import ids
from mia_events.effects import Call, Embed, Message
from mia_events.learning.versions import BASE
from mia_events.steps import ModelChoice, Poison, QuestionView, Task
from schemas.events import Event, LearnerSealed

E = TypeVar("E", bound=Event)
NO_ROLLOUT: Final = -1


def command(task: Task, kind: type[E]) -> E:
    """The task's command, which must be a `kind`. Raises `Poison`."""
    event = task.command
    if not isinstance(event, kind):
        raise Poison(f"{type(event).__name__} came to the handler of {kind.__name__}")
    return event


def question_of(task: Task) -> QuestionView:
    """The question that a task serves. Raises `Poison` when it serves none."""
    if task.question is None:
        raise Poison(f"stream {task.stream} serves no question")
    return task.question


def choice_of(task: Task, role: str) -> ModelChoice:
    """The model and sampling that the run pinned for a role. Raises `Poison`."""
    try:
        return task.run.manifest.roles[role]
    except KeyError:
        known = ", ".join(sorted(task.run.manifest.roles)) or "none"
        raise Poison(
            f"run {task.run.name} names no model for {role!r}; it names: {known}"
        ) from None


def prompt(task: Task, name: str) -> str:
    """A prompt's text as the run pinned it. Raises `Poison`."""
    try:
        return task.run.manifest.prompts[name]
    except KeyError:
        raise Poison(f"run {task.run.name} was created without prompt {name!r}") from None


def tools_of(task: Task) -> tuple[Tool, ...]:
    """The tools that the run gave its executors, by name. Raises `Poison`."""
    names = task.run.manifest.tools
    missing = [name for name in names if name not in TOOLS]
    if missing:
        raise Poison(f"run {task.run.name} needs tools that are not here: {', '.join(missing)}")
    return tuple(TOOLS[name] for name in sorted(names))


def sealed_policy(task: Task) -> str:
    """The planner version that a learner's last seal named; the base where nothing is sealed."""
    sealed = task.last(LearnerSealed)
    return sealed.policy if isinstance(sealed, LearnerSealed) else BASE


def sampling_seed(task: Task, rollout: int, step: str) -> int:
    """The seed of a random choice: the same wherever and however often its task is handled.

    It is the same in another run with the same seed; the version tells apart a rollout's steps.
    """
    question = question_of(task)
    return ids.seed(
        task.run.manifest.seed,
        question.source,
        question.row,
        question.pass_no,
        rollout,
        f"{step}:{task.version}",
    )


def call(
    task: Task,
    role: str,
    messages: tuple[Message, ...],
    *,
    rollout: int = NO_ROLLOUT,
    step: str,
    schema: dict[str, Any] | None = None,
    stop: tuple[str, ...] = (),
    tolerate: bool = False,
) -> Call:
    """A chat completion by the role's model, with the role's sampling and the step's own seed."""
    choice = choice_of(task, role)
    return Call(
        role=role,
        model=choice.model,
        messages=messages,
        max_tokens=choice.max_tokens,
        temperature=choice.temperature,
        top_p=choice.top_p,
        seed=sampling_seed(task, rollout, step),
        schema=schema,
        stop=stop,
        tolerate=tolerate,
    )


def planner_call(
    task: Task, messages: tuple[Message, ...], *, rollout: int, step: str, policy: str
) -> Call:
    """A call of the planner in version `policy`.

    It is never constrained by a grammar, because the planner is trained on what it samples, and its
    tokens are recorded for that. A run that trains samples at temperature and top-p 1, whatever the
    role's own sampling is.
    """
    choice, trained = choice_of(task, "planner"), task.run.manifest.train
    return Call(
        role="planner",
        model=choice.model if policy == BASE else policy,
        messages=messages,
        max_tokens=choice.max_tokens,
        temperature=1.0 if trained else choice.temperature,
        top_p=1.0 if trained else choice.top_p,
        seed=sampling_seed(task, rollout, step),
        capture_tokens=True,
        trained=trained,
    )


def embed_question(task: Task) -> Embed:
    """The embedding of the task's question, under which memories are kept and looked up."""
    return Embed(model=choice_of(task, "embedder").model, texts=(question_of(task).text,))


def dialogue(system: str, *parts: str) -> tuple[Message, ...]:
    """A system message, which all requests of a role share, and one user message of `parts`."""
    user = "\n\n".join(part for part in parts if part)
    return (Message("system", system), Message("user", user))


def setting(task: Task, name: str, default: int) -> int:
    """A whole number among the run's options."""
    value = task.run.manifest.options.get(name, default)
    if type(value) is not int:
        raise Poison(
            f"option {name!r} of run {task.run.name} must be a whole number, not {value!r}"
        )
    return value


__all__ = [
    "NO_ROLLOUT",
    "call",
    "choice_of",
    "command",
    "dialogue",
    "embed_question",
    "planner_call",
    "prompt",
    "question_of",
    "sampling_seed",
    "sealed_policy",
    "setting",
    "tools_of",
]
