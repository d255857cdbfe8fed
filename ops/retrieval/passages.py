"""Passages as users have them: JSON lines in one file, or in all files of a folder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

import msgspec

from ops.errors import Refused

__all__ = ["Corpus", "Passage", "Rejected", "find_corpus", "passage_of"]

_SUFFIX: Final = ".jsonl"
_LONGEST_LINE: Final = 2**20
_FORMS: Final = '{"id", "contents": "title\\ntext"} or {"id", "title", "text"}'


class Passage(msgspec.Struct, frozen=True):
    """A passage; the first line of `contents` is its title."""

    id: str
    contents: str


class _Row(msgspec.Struct, frozen=True):
    id: str | int | None = None
    id_too: str | int | None = msgspec.field(default=None, name="_id")
    title: str | None = None
    text: str | None = None
    contents: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that is left out: where it is (`file:line`), and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """The files that hold passages, in the order of their names."""

    root: Path
    files: Sequence[Path]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files)

    def digest(self) -> str:
        """Return the SHA-256 of names and contents: another digest is another corpus."""
        whole = sha256()
        for path in self.files:
            with path.open("rb") as file:
                own = file_digest(file, "sha256").hexdigest()
            whole.update(f"{self._name(path)}\n{own}\n".encode())
        return whole.hexdigest()

    def read(
        self, rejected: Callable[[Rejected], None], consumed: Callable[[int], None]
    ) -> Iterator[Passage]:
        """Read one passage after the other; a bad row is told, and skipped.

        A row without an id is named by its file and line. `consumed` is told the bytes of each row.
        """
        known: set[str] = set()
        for path in self.files:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    consumed(len(line))
                    where = f"{self._name(path)}:{number}"
                    try:
                        passage = passage_of(line, where)
                    except ValueError as error:
                        rejected(Rejected(where, str(error)))
                        continue
                    if passage is None:
                        continue
                    if passage.id in known:
                        rejected(Rejected(where, f"its id {passage.id!r} is taken by another row"))
                        continue
                    known.add(passage.id)
                    yield passage

    def _name(self, path: Path) -> str:
        return path.name if path == self.root else path.relative_to(self.root).as_posix()


def find_corpus(root: Path) -> Corpus:
    """Return the passages at `root`, a file or a folder.

    Raises:
        Refused: there is no such path, it is closed to us, or it holds no passages.
    """
    remedy = "Set retrieval.passages to a .jsonl file, or a folder of such files."
    try:
        if root.is_dir():
            files = sorted(path for path in root.rglob(f"*{_SUFFIX}") if path.is_file())
            if not files:
                raise Refused(f"{root} holds no {_SUFFIX} file", remedy)
        else:
            files = [root]
        for path in files:
            path.open("rb").close()
    except OSError as error:
        raise Refused(f"cannot read passages from {root}: {error.strerror}", remedy) from error
    return Corpus(root, tuple(files))


_row: Final = msgspec.json.Decoder(_Row)


def passage_of(line: bytes, where: str) -> Passage | None:
    """Return the passage in a line; None for a blank one. Raises `ValueError` with the reason."""
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"it has {len(line)} bytes, more than {_LONGEST_LINE}: split the passage")
    if not line.strip():
        return None
    try:
        row = _row.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is not {_FORMS}: {error}") from None
    contents = _contents(row)
    if not contents.strip():
        raise ValueError(f"it has no text; a row is {_FORMS}")
    name = row.id if row.id is not None else row.id_too
    return Passage(where if name is None else str(name), contents)


def _contents(row: _Row) -> str:
    if row.contents is not None:
        return row.contents
    title = " ".join((row.title or "").split())
    return f"{title}\n{row.text}" if (row.text or "").strip() else ""
