"""BM25 over the words of passages. The index is sparse and eager: a query adds up columns of it."""

from array import array
from collections.abc import Iterable
from pathlib import Path

import bm25s
import numpy as np
from bm25s.tokenization import Tokenizer

from ops.errors import Refused
from ops.retrieval.ranking import Scored, best

__all__ = ["Lexical", "build_lexical"]


def _tokenizer() -> Tokenizer:
    # Words of one character count: they tell Henry V from Henry VI, and Apollo 8 from Apollo 9.
    return Tokenizer(splitter=r"\w+", stopwords="english")


def build_lexical(folder: Path, texts: Iterable[str]) -> None:
    """Index texts, which are read once and not kept.

    Raises:
        Refused: there is no word in them.
    """
    tokenizer = _tokenizer()
    # Four bytes a word: lists of Python's integers would take eight and a header.
    ids = [array("i", words) for words in tokenizer.streaming_tokenize(texts, allow_empty=False)]
    if not tokenizer.word_to_id:
        raise Refused("there is no word in the passages", "Check retrieval.passages.")
    index = bm25s.BM25(backend="numpy")
    index.index((ids, tokenizer.word_to_id), create_empty_token=False, show_progress=False)
    index.save(folder, show_progress=False)


class Lexical:
    """An index in a folder, its arrays mapped into memory; the vocabulary is held."""

    def __init__(self, folder: Path) -> None:
        self._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        # As plain arrays over the same mapped memory: slices of `memmap` cost more than their sums.
        self._index.scores = {
            name: np.asarray(value) if isinstance(value, np.memmap) else value
            for name, value in self._index.scores.items()
        }
        self._tokenizer = _tokenizer()
        self._tokenizer.word_to_id = self._index.vocab_dict

    def search(self, query: str, count: int) -> list[Scored]:
        """Return the passages that share words with the query, best first."""
        (words,) = self._tokenizer.streaming_tokenize(
            [query], update_vocab=False, allow_empty=False
        )
        if not words:
            return []
        return best(self._index.get_scores_from_ids(words), count, above=0.0)
