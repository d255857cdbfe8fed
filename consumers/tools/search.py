"""BM25 over the passages that came with a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import bm25s
import msgspec
import numpy as np

from mia_events.effects import ToolResult
from mia_events.quoting import clip
from schemas.external import Paragraph

TOP: Final = 3
_PASSAGE_CHARACTERS: Final = 1_200
_NOTHING_TO_SEARCH: Final = (
    "There is nothing to search: the question came without documents and there is no retrieval "
    "service. Answer from what you know."
)
_decoder: Final = msgspec.json.Decoder(tuple[Paragraph, ...])


def decode_documents(stored: bytes) -> tuple[Paragraph, ...]:
    """Read a question's passages as they are stored: a JSON array of title and text."""
    return _decoder.decode(stored)


def search(query: str, documents: Sequence[Paragraph], top: int = TOP) -> ToolResult:
    """The best `top` passages, numbered, best first; equal scores keep the passages' order."""
    if not documents:
        return ToolResult(ok=False, text=_NOTHING_TO_SEARCH)
    scores = _scores(query, documents)
    ranked = np.argsort(-scores, kind="stable")[:top]
    found = [documents[int(index)] for index in ranked if scores[index] > 0]
    sources = tuple(dict.fromkeys(one.title for one in found))
    return ToolResult(ok=True, text=listed(found), sources=sources)


def listed(found: Sequence[Paragraph]) -> str:
    """What was found as the model reads it: numbered, each passage cut to a length."""
    if not found:
        return "No document matches. Try other key words."
    return "\n".join(_numbered(number, one) for number, one in enumerate(found, 1))


def _scores(query: str, documents: Sequence[Paragraph]) -> np.ndarray:
    corpus = _words([f"{one.title}\n{one.text}" for one in documents])
    known = {word for words in corpus for word in words}
    wanted = [word for word in _words([query])[0] if word in known]
    if not wanted:
        return np.zeros(len(documents), dtype=np.float32)
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    scores: np.ndarray = index.get_scores(wanted)
    return scores


def _words(texts: list[str]) -> list[list[str]]:
    words: list[list[str]] = bm25s.tokenize(texts, return_ids=False, show_progress=False)
    return words


def _numbered(number: int, document: Paragraph) -> str:
    return f"[{number}] {document.title}: {clip(document.text.strip(), _PASSAGE_CHARACTERS)}"


__all__ = ["TOP", "decode_documents", "listed", "search"]
