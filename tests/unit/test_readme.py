"""What README.md tells a user to type exists."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError

from ops.cli.main import app
from schemas.external import decode_question

_ROOT = Path(__file__).parents[2]
_NAME_ONLY = 1
_README = (_ROOT / "README.md").read_text()


def _typed() -> list[str]:
    """Return the command lines in blocks, and those in the text that stand for themselves."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)
    typed = "\n".join(text for language, text in blocks if not language)
    inline = re.findall(r"(?<!`)`(m[^`]+)`(?!`)", _README.replace("\n", " "))
    return [*filter(None, (line.split("#")[0].strip() for line in typed.splitlines())), *inline]


@pytest.mark.parametrize("line", [line for line in _typed() if line.startswith("mia ")])
def test_every_mia_command_is_understood(line: str) -> None:
    """Commands, options and their values parse; nothing is run."""
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    words = ["00000000-0000-4000-8000-000000000000" if word == "ID" else word for word in words]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        assert len(words) <= _NAME_ONLY, line  # the text names a command


def test_every_make_target_is_there() -> None:
    """The Makefile has the targets that are named."""
    makefile = (_ROOT / "Makefile").read_text()
    named = {line.split()[1] for line in _typed() if line.startswith("make ")}
    assert {"demo", "test"} <= named
    there = {
        name
        for line in re.findall(r"^([a-z -]+):", makefile, re.MULTILINE)
        for name in line.split()
    }
    assert set() == named - there


def test_the_smallest_record_is_a_question() -> None:
    """The JSON that is shown is what admission takes."""
    (shown,) = re.findall(r"```json\n(.*?)\n```", _README, re.DOTALL)
    assert "default" == decode_question(shown.encode()).run
