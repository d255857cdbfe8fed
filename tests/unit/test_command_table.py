"""The table of commands: each is there, says what it says, and costs nothing until it is asked."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from ops.cli.main import COMMANDS


def _summary(target: object) -> str:
    text = target.help if isinstance(target, App) else target.__doc__
    return " ".join(str(text).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_as_the_table_says(name: str) -> None:
    """The list of commands must not promise another thing than the command's own help."""
    path, summary = COMMANDS[name]
    module, _, attribute = path.partition(":")
    target = getattr(importlib.import_module(f"ops.cli.{module}"), attribute)
    assert _summary(target).startswith(summary.rstrip("."))


@pytest.mark.parametrize("arguments", [("--help",), ("status", "--home", "/nowhere/at-all")])
def test_help_and_status_import_no_client(arguments: tuple[str, ...]) -> None:
    """What takes a second to import waits until a command needs it."""
    script = (
        "import sys; from ops.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiokafka', 'aiohttp', 'asyncpg', 'bm25s', 'numpy', 'starlette'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert "" == done.stderr
    assert done.stdout


def test_every_command_is_in_the_documentation() -> None:
    """docs/cli.md says in one place what there is."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words = set(re.findall(r"[a-z]+", " ".join(re.findall(r"`[^`]+`", text))))
    assert set() == set(COMMANDS) - words
