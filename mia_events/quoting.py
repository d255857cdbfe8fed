"""Text from outside, made safe to put into a prompt: cleaned, cut, and fenced as data.

Inside a fence no ``<`` is left, so that no passage can close its fence, open another, or spell a
control token of a chat template.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef]")
#: Some chat templates write their control tokens in square brackets.
_BRACKET_TOKEN: Final = re.compile(r"\[(/?[A-Z_]{3,})\]")
_NAME: Final = re.compile(r"[a-z][a-z0-9 _-]*")
_CUT: Final = " [cut]"
_FENCE_LINE: Final = re.compile(r'<data name="[^"<>]*">\n?|\n?</data>')
_FENCE: Final = re.compile(r'(<data name="[^"]*">\n)([^<]*)(\n</data>)')


def clean(text: str) -> str:
    """`text` without control characters and lone surrogates; line feeds and tabs stay."""
    return _UNSAFE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def clip(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, with a mark where it was cut."""
    if len(text) <= limit:
        return text
    return text[: max(limit - len(_CUT), 0)] + _CUT[:limit]


@lru_cache(maxsize=4096)  # a conversation is rebuilt at every turn
def escape(text: str) -> str:
    """`text` with nothing in it that a fence or a chat template could take for its own."""
    return _BRACKET_TOKEN.sub(r"[ \1 ]", clean(text).replace("<", "&lt;"))


@lru_cache(maxsize=4096)
def quote(name: str, text: str, limit: int = 8_000) -> str:
    """`text` (at most `limit` characters of it) fenced as data called `name`."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a fence is named by lower-case words, not {name!r}")
    return f'<data name="{name}">\n{escape(clip(clean(text), limit)).strip()}\n</data>'


def unfenced(text: str) -> str:
    """`text` without the fences in it, as of a model that repeats its request."""
    return _FENCE_LINE.sub("", text).strip()


def shorten(text: str, limit: int) -> str:
    """`text` with at most `limit` characters in each of its fences, which stay whole."""
    return _FENCE.sub(lambda found: f"{found[1]}{clip(found[2], limit)}{found[3]}", text)


__all__ = ["clean", "clip", "escape", "quote", "shorten", "unfenced"]
