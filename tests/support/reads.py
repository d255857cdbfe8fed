"""What a store answers to the reads of a step, and the requests that somebody else answers."""

from typing import TypeAlias

from mia_events.effect_codec import Reply
from mia_events.effects import (
    Call,
    ChooseGroups,
    Embed,
    Label,
    ReadBatch,
    ReadGroups,
    ReadLabel,
    ReadRollouts,
    Recall,
    Train,
    UseTool,
)
from storage.ports import LabelStore, Ledger, MemoryStore

__all__ = ["Outside", "Read", "read"]

#: What models, tools and trainers are asked.
Outside: TypeAlias = Call | Embed | UseTool | Train
Read: TypeAlias = ReadRollouts | ReadBatch | ChooseGroups | ReadGroups | Recall | ReadLabel


async def read(effect: Read, ledger: Ledger, memory: MemoryStore, labels: LabelStore) -> Reply:
    """Answer as the performer that serves does, a label without waiting for it."""
    match effect:
        case ReadRollouts():
            return await ledger.rollouts(effect.question)
        case ReadBatch():
            return await ledger.consolidated(effect.run, effect.number)
        case ChooseGroups():
            return await ledger.candidates(effect.run, effect.number)
        case ReadGroups():
            return await ledger.groups(effect.run, effect.questions)
        case Recall():
            return await memory.recall(effect)
        case ReadLabel():
            return Label(await labels.label(effect.question))
