"""How many tokens a text may have, without the model's tokenizer."""

from __future__ import annotations

import re
from typing import Final

#: Running text has three to five bytes a token, lists of names and numbers two to three.
_BYTES_A_TOKEN: Final = 2
#: What a chat template puts around a message.
_A_MESSAGE: Final = 8
#: Many vocabularies give digits, marks and the bytes of foreign scripts a token each.
_ALONE: Final = re.compile(rb"[^A-Za-z \n]")
_PROSE_BYTES_A_TOKEN: Final = 3


def most_tokens(text: str) -> int:
    """A conservative estimate of the tokens of one message: one for every two bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN) + _A_MESSAGE


def bound_tokens(text: str) -> int:
    """More tokens than a message has, whatever is in it: one for two letters, one for any other
    byte of UTF-8.
    """
    data = text.encode("utf-8", "replace")
    alone = len(_ALONE.findall(data))
    return -(-(len(data) - alone) // _BYTES_A_TOKEN) + alone + _A_MESSAGE


def prose_tokens(text: str) -> int:
    """More tokens than a message of plain English has, such as our own prompts."""
    return -(-len(text.encode("utf-8", "replace")) // _PROSE_BYTES_A_TOKEN) + _A_MESSAGE


__all__ = ["bound_tokens", "most_tokens", "prose_tokens"]
