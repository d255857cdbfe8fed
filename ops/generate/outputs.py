"""Which files are generated, and how they compare with what is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ops.generate.golden import golden_sample
from ops.generate.sections import channels, filled, sections
from schemas.events import EVENT_TYPES
from schemas.export import asyncapi, json_schemas

ROOT: Final = Path(__file__).resolve().parents[2]
_SCHEMAS: Final = Path("docs/schemas")
_GOLDEN: Final = Path("schemas/golden/v1")
_ARCHITECTURE: Final = Path("docs/architecture.md")


def generated(root: Path) -> dict[Path, bytes]:
    """Every generated file's content by its path below `root`; golden samples are not among them.

    Raises `UnknownSection` when the architecture page and the sections do not match.
    """
    schemas = {_SCHEMAS / f"{name}.json": _json(value) for name, value in json_schemas().items()}
    page = (root / _ARCHITECTURE).read_text(encoding="utf-8")
    return {
        **schemas,
        Path("docs/asyncapi.json"): _json(asyncapi(channels())),
        _ARCHITECTURE: filled(page, sections()).encode(),
    }


def missing_samples(root: Path) -> dict[Path, bytes]:
    """Golden samples of event types that have none yet. One that exists is never written again."""
    samples = {_GOLDEN / f"{type_}.json": type_ for type_ in EVENT_TYPES}
    return {
        path: golden_sample(type_) for path, type_ in samples.items() if not (root / path).exists()
    }


def stale(root: Path) -> list[tuple[Path, str]]:
    """The files that are not as they would be generated, each with what is wrong."""
    wanted = {**generated(root), **missing_samples(root)}
    found = [(path, _difference(root / path, content)) for path, content in wanted.items()]
    left = [(path, "no longer generated") for path in _left_over(root)]
    return sorted((path, problem) for path, problem in (*found, *left) if problem)


def write(root: Path) -> list[Path]:
    """Bring every generated file up to date; the paths of those that changed."""
    wanted = {**generated(root), **missing_samples(root)}
    changed = [path for path, content in wanted.items() if _difference(root / path, content)]
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(wanted[path])
    left = _left_over(root)
    for path in left:
        (root / path).unlink()
    return sorted([*changed, *left])


def _left_over(root: Path) -> list[Path]:
    wanted = {f"{name}.json" for name in json_schemas()}
    files = (root / _SCHEMAS).glob("*.json")
    return [path.relative_to(root) for path in files if path.name not in wanted]


def _difference(path: Path, content: bytes) -> str:
    if not path.exists():
        return "missing"
    return "" if path.read_bytes() == content else "out of date"


def _json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


__all__ = ["ROOT", "generated", "missing_samples", "stale", "write"]
