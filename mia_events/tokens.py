"""How many tokens a text may have, without the model's tokenizer."""

from __future__ import annotations

from typing import Final

#: Running text has three to five bytes a token, lists of names and numbers two to three.
_BYTES_A_TOKEN: Final = 2
#: What a chat template puts around a message.
_A_MESSAGE: Final = 8


def most_tokens(text: str) -> int:
    """A conservative estimate of the tokens of one message: one for every two bytes of UTF-8."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN) + _A_MESSAGE


__all__ = ["most_tokens"]
