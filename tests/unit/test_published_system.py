"""Every fault of the published system is tested for, and the table that says where is true."""

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TABLE = (_ROOT / "docs" / "published-system.md").read_text()
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_NUMBER = re.compile(r"W-\d\d")


@pytest.mark.parametrize("path, name", sorted(set(_NAMED.findall(_TABLE))))
def test_a_test_that_the_table_names_is_there(path: str, name: str) -> None:
    """Under that name."""
    tree = ast.parse((_ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_row_names_a_test() -> None:
    """And every number that a test names has a row."""
    rows = [line for line in _TABLE.splitlines() if line.startswith("| W-")]
    assert all(_NAMED.search(row) for row in rows)
    named = {
        number
        for path in (_ROOT / "tests").rglob("*.py")
        for number in _NUMBER.findall(path.read_text())
    }
    assert named <= set(_NUMBER.findall(_TABLE))
    assert len(rows) == len(set(_NUMBER.findall(_TABLE)))
