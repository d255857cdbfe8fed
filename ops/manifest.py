"""The manifest of a run: everything that its requests depend on, read once from the settings."""

import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from consumers import prompts
from consumers.tools import TOOLS
from mia_events.learning.governor import pacing_problem
from mia_events.learning.guard import Anchor
from mia_events.steps import Manifest
from ops.errors import Refused
from ops.models import base_folder, choices, full_weight_servers
from ops.settings import ServingSettings, Settings

__all__ = ["code_version", "manifest_of", "shown"]

_ROOT = Path(__file__).parents[1]
_LEAST_GROUP = 2


def manifest_of(settings: Settings, **chosen: object) -> Manifest:
    """Pin prompts, models and this code's version; `chosen` are further fields of `Manifest`.

    Raises:
        Refused: a field does not hold what it should, or contradicts another.
    """
    fields = {name: value for name, value in chosen.items() if value is not None}
    base = Manifest(
        prompts=prompts.load(),
        roles=choices(settings),
        tools=tuple(sorted(TOOLS)),
        hyper=settings.training.hyper,
        code_version=code_version(),
    )
    try:
        manifest = msgspec.convert({**msgspec.to_builtins(base), **fields}, Manifest)
    except msgspec.ValidationError as error:
        raise Refused(
            f"the run's settings do not fit: {error}", "See `mia run create --help`."
        ) from error
    _check(manifest)
    _check_labels(manifest)
    _check_learning(manifest)
    if not manifest.train:
        return manifest
    _check_training(manifest, settings)
    if settings.serving.weights == "full":
        _check_full_weights(manifest, settings)
    else:
        _check_serving(manifest, settings.serving)
    return _fitting(manifest)


def code_version() -> str:
    """Return `git describe` of a checkout, else the version of the installed package."""
    if (_ROOT / ".git").exists():
        command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    try:
        return metadata.version("mia-events")
    except metadata.PackageNotFoundError:
        return "unknown"


def shown(manifest: Manifest) -> dict[str, object]:
    """Return a manifest for a reader: the prompts by their digest."""
    told: dict[str, object] = msgspec.to_builtins(manifest)
    return {**told, "prompts": prompts.digest(manifest.prompts)}


def _check(manifest: Manifest) -> None:
    if manifest.mode not in {"live", "batch"}:
        raise Refused(f"there is no mode {manifest.mode!r}", "Modes: live, batch.")
    for name, least in (("rollouts", 1), ("batch_size", 1), ("lag", 0), ("max_in_flight", 1)):
        if getattr(manifest, name) < least:
            raise Refused(f"{name} must be at least {least}", "Give another number.")
    if manifest.memory_cap < 1 or not 0 <= manifest.memory_frequency <= 1:
        raise Refused(
            "a scope keeps a memory at least", "memory_cap >= 1, memory_frequency 0 to 1."
        )
    if manifest.deterministic and manifest.mode != "batch":
        raise Refused("a deterministic run needs batches", "Add --mode batch.")
    if manifest.deterministic and _timed(manifest):
        raise Refused("a deterministic run has no limits of time", "Leave out the deadline.")


def _check_labels(manifest: Manifest) -> None:
    wait = manifest.label_wait_s
    if wait is not None and (wait <= 0 or manifest.judge != "supervised"):
        raise Refused("only a supervised judge waits for labels", "A time above 0, or none.")
    deadline = manifest.question_deadline_s
    if wait is not None and deadline is not None and deadline <= wait:
        raise Refused(
            "the question's deadline ends the wait for its label",
            "Give a longer --question-deadline, or none.",
        )


def _check_learning(manifest: Manifest) -> None:
    if manifest.guard == "anchors" and not manifest.anchors:
        raise Refused("a guard compares versions on anchors", "Name a file with --anchors.")
    if (manifest.anchors or manifest.holdout) and manifest.judge == "none":
        raise Refused(
            "anchors and holdout are graded, and the run has no judge", "Choose another --judge."
        )
    anchored = [one for one in manifest.anchors if _is_among(one, manifest.holdout)]
    if anchored:
        raise Refused(
            f"{len(anchored)} questions are both anchors and holdout, such as {anchored[0].text!r}",
            "A holdout shows what the guard has not seen: name other questions.",
        )
    if manifest.holdout and not manifest.train:
        raise Refused("a run that does not train has nothing to measure", "Leave out --holdout.")


def _is_among(question: Anchor, others: Sequence[Anchor]) -> bool:
    """The same words, or the same row of a source, under whose name its label is sealed."""
    return any(
        question.text == other.text or (question.source, question.row) == (other.source, other.row)
        for other in others
    )


def _check_training(manifest: Manifest, settings: Settings) -> None:
    if not settings.training.enabled:
        raise Refused(
            "this stack does not train", "Set training.enabled = true, and start it again."
        )
    if manifest.rollouts < _LEAST_GROUP:
        raise Refused("a group of one has nothing to compare", "Add --rollouts 4.")
    if manifest.judge == "none":
        raise Refused("without a judge there is no reward", "Choose another --judge.")
    problem = pacing_problem(lag=manifest.lag, staleness=manifest.staleness)
    if problem:
        raise Refused("groups would be too old to train from", problem)


def _fitting(manifest: Manifest) -> Manifest:
    """Leave three quarters of a training row to the planner's prompts."""
    planner = manifest.roles["planner"]
    most = min(planner.max_tokens, manifest.hyper.row_tokens // 4)
    shorter = msgspec.structs.replace(planner, max_tokens=most)
    return msgspec.structs.replace(manifest, roles={**manifest.roles, "planner": shorter})


def _check_serving(manifest: Manifest, serving: ServingSettings) -> None:
    """Refuse a run whose versions servers could not hold at once, or not hold at all.

    While the guard compares, `lag` batches answer with a version each; the candidate, its parent
    and the best are three more.
    """
    needed = manifest.lag + 3
    if needed > serving.max_loras:
        raise Refused(
            f"a run of lag {manifest.lag} may need {needed} versions of the planner at once,"
            f" servers have room for {serving.max_loras}",
            "Choose a smaller --lag, or start servers with more and set serving.max_loras.",
        )
    if not manifest.hyper.lora_rank:
        raise Refused(
            "a run that trains all weights could not serve them: servers take adapters",
            'Choose a --lora-rank of 1 or more, or servers of their own: serving.weights = "full".',
        )
    if manifest.hyper.lora_rank > serving.max_lora_rank:
        raise Refused(
            f"adapters of rank {manifest.hyper.lora_rank} do not fit servers that take"
            f" {serving.max_lora_rank}",
            "Choose a smaller rank, or start servers for more and set serving.max_lora_rank.",
        )


def _check_full_weights(manifest: Manifest, settings: Settings) -> None:
    """Refuse a run of adapters where servers take whole weights; and any run where nothing says
    from where the base model's weights, which servers hold in their turn, come back.
    """
    full_weight_servers(settings)
    if manifest.hyper.lora_rank:
        raise Refused(
            "servers take all weights of a version here, and this run would train an adapter",
            "Add --lora-rank 0.",
        )
    if base_folder(settings) is None:
        raise Refused(
            "nothing says where the base model's weights lie, which servers hold too",
            "Set training.model to the folder of its checkpoint.",
        )


def _timed(manifest: Manifest) -> bool:
    limits = (
        manifest.question_deadline_s,
        manifest.batch_linger_s,
        manifest.batch_deadline_s,
        manifest.label_wait_s,
    )
    return any(limit is not None for limit in limits)
