"""One suite, every implementation: `workbench` is given once per implementation."""

import uuid
from collections.abc import AsyncIterator

import pytest

from tests.contract.workbench import Workbench
from tests.support.ports import in_memory_ports, make_postgres_ports, prepare_postgres
from tests.support.stack import StackThread, fresh_database, stack

__all__ = ["implementation", "prepared", "stack", "workbench"]


@pytest.fixture(scope="session")
def prepared(stack: StackThread) -> str:
    """Give the DSN of a database with every migration applied; tests share it."""

    async def prepare() -> str:
        dsn = await fresh_database(stack.admin_dsn, f"contract_{uuid.uuid4().hex[:12]}")
        await prepare_postgres(dsn)
        return dsn

    return stack.run(prepare())


@pytest.fixture(params=["inmemory", "postgres"])
def implementation(request: pytest.FixtureRequest) -> str | None:
    """Give the database for the Postgres adapters, None for the twins."""
    if request.param == "inmemory":
        return None
    dsn = request.getfixturevalue("prepared")
    assert isinstance(dsn, str)
    return dsn


@pytest.fixture
async def workbench(implementation: str | None) -> AsyncIterator[Workbench]:
    """Give one implementation, in which no other test's run moves any more."""
    if implementation is None:
        async with in_memory_ports() as twins:
            yield Workbench(twins)
        return
    async with make_postgres_ports(implementation) as adapters:
        yield Workbench(adapters)
