"""The prompts, one Markdown file each.

A run pins their texts in its manifest when it is created; handlers read them from there, so that a
deployment never changes a run that is under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Final

NAMES: Final = (
    "plan", "route", "execute", "execute_tags", "last_turn", "last_turn_tags", "revised", "reflect",
    "replan", "judge", "review_logic", "review_sourcing", "review_validity", "chair", "compress",
    "classify",
)  # fmt: skip


def load() -> dict[str, str]:
    """The text of every prompt by its name."""
    folder = files(__name__)
    return {name: folder.joinpath(f"{name}.md").read_text("utf-8").strip() for name in NAMES}


def digest(prompts: Mapping[str, str]) -> str:
    """SHA-256 (hex) over names and texts, whatever their order."""
    parts = [f"{name}\x1f{text}" for name, text in sorted(prompts.items())]
    return sha256("\x1e".join(parts).encode()).hexdigest()


__all__ = ["NAMES", "digest", "load"]
