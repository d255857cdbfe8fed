"""How well a memory fits a question, on a scale that does not depend on what else is stored."""

from __future__ import annotations

import re
import unicodedata
from itertools import combinations
from typing import Final

#: Weights of similarity and win rate, the published defaults.
SIMILARITY_WEIGHT: Final = 0.7
WIN_RATE_WEIGHT: Final = 0.3
#: Share of the words in the similarity, where words count.
WORDS_WEIGHT: Final = 0.2
#: Below this similarity a memory is not about the question at all and is not returned.
SIMILARITY_FLOOR: Final = 0.2

_WORD: Final = re.compile(r"\w+")
_LONGEST: Final = 64
_MOST_WORDS: Final = 32
_MOST_OPENING: Final = 6
_COMMON: Final = frozenset(
    _WORD.findall(
        "a an and are as at be been both but by can could did do does for from had has have he her "
        "his how i if in into is it its me more most my no not of on one or our she so than that "
        "the their them then there these they this those to up was we were what when where which "
        "while who whom whose why will with would you your"
    )
)


def words(text: str) -> tuple[str, ...]:
    """The distinct words of a text that say something, in order, without letter case.

    Made here and not by the database's dictionaries, so that every implementation finds the same.
    """
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    said = (word for word in found if word not in _COMMON and len(word) <= _LONGEST)
    return tuple(dict.fromkeys(said))


def question_words(text: str) -> tuple[str, ...]:
    """The words of a question that are looked for: the first 32."""
    return words(text)[:_MOST_WORDS]


def opening(asked: tuple[str, ...]) -> str:
    """A text query (Postgres' syntax) for memories that share at least two of the six longest
    words, or the only one. Empty when there is no word.
    """
    longest = sorted(asked, key=lambda word: (-len(word), word))[:_MOST_OPENING]
    if len(longest) < 2:  # noqa: PLR2004 - a pair
        return "".join(f"'{word}'" for word in longest)
    return " | ".join(f"'{one}' & '{other}'" for one, other in combinations(longest, 2))


def similarity(cosine: float, *, shared: int = 0, asked: int = 0) -> float:
    """The cosine, not below 0; with `asked` words to look for, 0.8 · cosine + 0.2 · the share of
    them that the memory has. In [0, 1], rounded to six places.
    """
    near = max(0.0, cosine)
    if asked:
        near = (1 - WORDS_WEIGHT) * near + WORDS_WEIGHT * shared / asked
    return _rounded(near)


def retrieval_score(near: float, *, uses: int, wins: int, frequency: float = 0.0) -> float:
    """0.7 · similarity + 0.3 · win rate + `frequency` / (uses + 1), rounded to six places.

    The win rate is (wins + 1) / (uses + 1): the published counters start at one use and one win.
    The last term is the paper's (appendix 10), for memories that were used seldom.
    """
    win_rate = (wins + 1) / (uses + 1)
    score = SIMILARITY_WEIGHT * near + WIN_RATE_WEIGHT * win_rate + frequency / (uses + 1)
    return _rounded(score)


def _rounded(value: float) -> float:
    return round(value * 1e6) / 1e6


__all__ = [
    "SIMILARITY_FLOOR",
    "SIMILARITY_WEIGHT",
    "WIN_RATE_WEIGHT",
    "WORDS_WEIGHT",
    "opening",
    "question_words",
    "retrieval_score",
    "similarity",
    "words",
]
