"""The demonstration: ten questions from Kafka to memory, shown as they go."""

from importlib.resources import as_file, files
from pathlib import Path

from ops.demo.show import Outcome, show

__all__ = ["Outcome", "own_questions", "show"]


def own_questions() -> Path:
    """Return the file of the project's own questions and passages."""
    with as_file(files(__name__) / "questions.json") as path:
        return path
