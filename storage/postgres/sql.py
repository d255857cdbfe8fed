"""Named queries: each lives in a `.sql` file under a `-- name:` line with a line of description."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_HEADER = re.compile(r"^-- name: (\w+)\n-- (.+)\n", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, str]:
    """The queries of `storage/postgres/<file>.sql` by name. Raises `ValueError` for a nameless
    one.
    """
    text = resources.files("storage.postgres").joinpath(f"{file}.sql").read_text("utf-8")
    headers = list(_HEADER.finditer(text))
    if not headers or text[: headers[0].start()].strip():
        message = f"{file}.sql: every query needs '-- name: x' and a line of description"
        raise ValueError(message)
    ends = [header.start() for header in headers[1:]] + [len(text)]
    return {
        header[1]: text[header.end() : end].strip()
        for header, end in zip(headers, ends, strict=True)
    }


__all__ = ["queries"]
