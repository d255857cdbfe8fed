"""Passages that come with a question: JSON, JSON lines, or one text."""

from pathlib import Path
from typing import Final

import msgspec

from schemas.external import Paragraph

__all__ = ["read_passages"]

_list: Final = msgspec.json.Decoder(tuple[Paragraph, ...])
_line: Final = msgspec.json.Decoder(Paragraph)


def read_passages(path: Path) -> tuple[Paragraph, ...]:
    """Read `{"title", "text"}` from a .json list or .jsonl lines; any other file is one passage.

    Raises:
        ValueError: a JSON file is not of that form; the message says where.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _list.decode(content)
        if path.suffix == ".jsonl":
            return tuple(_line.decode(line) for line in content.splitlines() if line.strip())
    except msgspec.DecodeError as error:
        raise ValueError(f'not a list of {{"title", "text"}}: {error}') from error
    return (Paragraph(title=path.stem, text=content.decode("utf-8", "replace")),)
