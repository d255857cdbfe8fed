"""Performs each kind of effect by its port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from consumers.effects.missing import Missing
from consumers.effects.model_client import NotServed
from consumers.runner.context import Lru
from consumers.tools.registry import SEARCH, TOOLS
from consumers.tools.run import decode_documents, run_tool
from mia_events.effects import (
    AnyEffect,
    Call,
    ChooseGroups,
    Embed,
    Label,
    ModelReply,
    ReadBatch,
    ReadGroups,
    ReadLabel,
    ReadRollouts,
    Recall,
    ToolResult,
    Train,
    UseTool,
)
from mia_events.learning.versions import SERVED_BASE
from mia_events.lifecycle import Kind
from mia_events.steps import Late, OutcomeUnknown, Poison

if TYPE_CHECKING:
    from consumers.effects.full_weights import FullWeights
    from consumers.effects.model_client import ModelClient
    from consumers.effects.versions import Versions
    from consumers.tools.retrieval import RetrievalClient
    from consumers.train.trainer import Trainer
    from mia_events.effect_codec import Reply
    from mia_events.learning.job import Trained
    from mia_events.steps import Task
    from schemas.external import Paragraph
    from storage.ports import Artifacts, LabelStore, Ledger, MemoryStore

#: How long a rollout sleeps between two looks for its label: as long again as it has waited, within
#: these. It is woken by the label; it looks itself for one that came while it was looking.
_LEAST_PAUSE_S: Final = 1.0
_MOST_PAUSE_S: Final = 600.0


class RealPerformer:
    """The `Performer` of a worker. `labels` is None where the process may not read them.

    `versions` knows what servers call the planner versions that requests name. A question without
    documents is searched for in `retrieval`, where there is such a service.
    `trainer` is None where no planner can be trained, `planner` where its versions are adapters.
    """

    def __init__(
        self,
        *,
        models: ModelClient,
        versions: Versions,
        memory: MemoryStore,
        ledger: Ledger,
        artifacts: Artifacts,
        labels: LabelStore | None,
        retrieval: RetrievalClient | None = None,
        trainer: Trainer | None = None,
        planner: FullWeights | None = None,
        missing: Missing | None = None,
    ) -> None:
        self._models = models
        self._versions = versions
        self._memory = memory
        self._ledger = ledger
        self._artifacts = artifacts
        self._labels = labels
        self._retrieval = retrieval
        self._trainer = trainer
        self._planner = planner
        self._missing = missing or Missing()
        self._documents: Lru[str, tuple[Paragraph, ...]] = Lru(512)

    async def perform(  # noqa: C901, PLR0911 - one case and one return per kind of effect
        self, effect: AnyEffect, task: Task
    ) -> Reply:
        """See the port."""
        match effect:
            case Call():
                return await self._chat(effect, task)
            case Embed():
                return await self._models.embed(effect)
            case UseTool():
                return await self._tool(effect)
            case Recall():
                return await self._memory.recall(effect)
            case ReadRollouts():
                return await self._ledger.rollouts(effect.question)
            case ReadBatch():
                return await self._ledger.consolidated(effect.run, effect.number)
            case ReadLabel():
                return await self._label(effect, task)
            case ChooseGroups():
                return await self._ledger.candidates(effect.run, effect.number)
            case ReadGroups():
                return await self._ledger.groups(effect.run, effect.questions)
            case Train():
                return await self._train(effect)

    async def _chat(self, call: Call, task: Task) -> ModelReply:
        """A question waits for its version, which has served, as long as it takes. That of a guard
        may never serve: at last, its request is one that can never be answered.
        """
        key = (task.event_id, call.model)
        try:
            reply = await self._said(call, task)
        except NotServed as error:
            manifest = task.run.manifest
            if task.kind is not Kind.LEARNER or manifest.deterministic:
                raise
            if self._missing.missed(key) <= manifest.guard_rules.load_s:
                raise
            return ModelReply(text="", finish_reason="error", problem=str(error))
        self._missing.found(key)
        return reply

    async def _said(self, call: Call, task: Task) -> ModelReply:
        served = await self._versions.served(task.run, call.model)
        if self._planner is None or call.role != "planner":
            return await self._models.chat(call, served=served)
        model = task.run.manifest.roles["planner"].model
        return await self._planner.chat(call, held=served or SERVED_BASE, model=model)

    async def _label(self, effect: ReadLabel, task: Task) -> Label:
        if self._labels is None:
            message = f"{task.status} of {task.stream} asked for a label where none may be read"
            raise Poison(message)
        value = await self._labels.label(effect.question)
        if value is None and task.kind is Kind.ROLLOUT:
            await self._await_label(self._labels, task)
        return Label(value)

    async def _await_label(self, labels: LabelStore, task: Task) -> None:
        """Come back later, as long as the run waits for labels; a label that is sealed meanwhile
        makes the command due at once.
        """
        limit_s = task.run.manifest.label_wait_s
        if limit_s is None:
            return
        waited_s = await labels.waited(task.run.run_no, task.event_id)
        if waited_s < limit_s:
            pause_s = min(max(waited_s, _LEAST_PAUSE_S), _MOST_PAUSE_S, limit_s - waited_s)
            raise Late("there is no label yet", pause_s)

    async def _train(self, effect: Train) -> Trained:
        if self._trainer is None:
            raise Poison(
                "this worker cannot train: make the train environment with `make env-train`"
            )
        return await self._trainer.train(effect.job)

    async def _tool(self, effect: UseTool) -> ToolResult:
        if effect.tool == SEARCH and effect.documents is None and self._retrieval is not None:
            return await self._retrieval.search(effect.arguments["query"])
        documents = await self._passages(effect.documents)
        limit = TOOLS[effect.tool].time_limit_s if effect.tool in TOOLS else None
        try:
            return await asyncio.wait_for(
                asyncio.to_thread(run_tool, effect, documents), timeout=limit
            )
        except TimeoutError:
            if not effect.idempotent:
                message = f"{effect.tool} gave no result within {limit:g} s, and may have acted"
                raise OutcomeUnknown(message) from None
            return ToolResult(ok=False, text=f"{effect.tool} gave no result within {limit:g} s")

    async def _passages(self, sha256: str | None) -> tuple[Paragraph, ...]:
        if sha256 is None:
            return ()
        found = self._documents.get(sha256)
        if found is None:
            found = tuple(decode_documents(await self._artifacts.get(sha256)))
            self._documents.put(sha256, found)
        return found


__all__ = ["RealPerformer"]
