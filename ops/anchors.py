"""Questions that a run holds back, from a benchmark's file: its anchors, its holdout. Their labels
are sealed like all others.
"""

from hashlib import sha256
from pathlib import Path

import msgspec

from consumers.guard import anchor_id
from mia_events.learning.guard import Anchor
from mia_events.steps import RunView
from ops.benchmark import read_benchmark
from ops.errors import Refused
from producers.hotpot import BadRow
from producers.ingest import Sealer
from storage.ports import Artifacts

__all__ = ["HeldBack", "held_back"]


class HeldBack(msgspec.Struct, frozen=True, kw_only=True):
    """Held-back questions with what a manifest does not hold: labels, passages by their SHA-256."""

    questions: tuple[Anchor, ...]
    labels: tuple[str, ...]
    documents: dict[str, bytes]

    async def keep_documents(self, artifacts: Artifacts) -> None:
        """Put the questions' passages where a search finds them."""
        for data in self.documents.values():
            await artifacts.put(data)

    async def seal(self, run: RunView, labels: Sealer) -> None:
        """Seal each question's label where only the judge and the guard read it."""
        for question, label in zip(self.questions, self.labels, strict=True):
            await labels.seal(run.run_no, anchor_id(run, question), label, source="anchor")


def held_back(file: Path, limit: int) -> HeldBack:
    """Read the first `limit` rows of a benchmark that have an answer.

    Raises:
        Refused: the file cannot be read, or has no such row.
    """
    benchmark = read_benchmark(file)
    questions: list[Anchor] = []
    labels: list[str] = []
    documents: dict[str, bytes] = {}
    for row in benchmark.rows:
        if isinstance(row, BadRow) or row.label is None or len(questions) == limit:
            continue
        data = msgspec.json.encode(row.documents)
        name = sha256(data).hexdigest() if row.documents else None
        if name is not None:
            documents[name] = data
        questions.append(
            Anchor(source=benchmark.source, row=row.name, text=row.question, documents=name)
        )
        labels.append(row.label)
    if not questions:
        raise Refused(
            f"{file} has no row with an answer", "What is held back is graded: it needs one."
        )
    return HeldBack(questions=tuple(questions), labels=tuple(labels), documents=documents)
