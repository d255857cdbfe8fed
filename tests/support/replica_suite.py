"""What any server of the planner must do, real or scripted: one suite over the port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ops.serving.folders import unpack_adapter
from ops.serving.replica import Replica
from ops.serving.routes import Declined

__all__ = ["ReplicaSuite"]


class ReplicaSuite:
    """Subclasses give the fixtures `replica`, `adapter` (a packed one that it can load) and
    `answer`: which model answers a request for the model of that name, None for an unknown one.
    """

    async def test_a_version_is_served_under_its_own_name(
        self,
        replica: Replica,
        adapter: bytes,
        answer: Callable[[str], Awaitable[str | None]],
        tmp_path: Path,
    ) -> None:
        """Before it is loaded nobody answers for it; then it does; after an unload it does not."""
        name = "planner@v1-00000000000a"
        unpack_adapter(adapter, tmp_path / name)
        assert await answer(name) is None
        await replica.load(name, tmp_path / name)
        assert name in await replica.present()
        assert name == await answer(name)
        await replica.unload(name)
        assert name not in await replica.present()
        assert await answer(name) is None

    async def test_what_is_done_twice_is_done(
        self, replica: Replica, adapter: bytes, tmp_path: Path
    ) -> None:
        """Two reconcilers may do the same: neither is told of a fault."""
        name = "planner@v2-00000000000a"
        unpack_adapter(adapter, tmp_path / name)
        await replica.load(name, tmp_path / name)
        await replica.load(name, tmp_path / name)
        await replica.unload(name)
        await replica.unload(name)
        assert name not in await replica.present()

    async def test_several_versions_are_served_side_by_side(
        self,
        replica: Replica,
        adapter: bytes,
        answer: Callable[[str], Awaitable[str | None]],
        tmp_path: Path,
    ) -> None:
        """A rollout keeps its version while the next one is there already."""
        names = [f"planner@v{number}-00000000000a" for number in (3, 4)]
        for name in names:
            unpack_adapter(adapter, tmp_path / name)
            await replica.load(name, tmp_path / name)
        assert names == [await answer(name) for name in names]
        for name in names:
            await replica.unload(name)

    async def test_a_version_without_files_is_declined(
        self, replica: Replica, tmp_path: Path
    ) -> None:
        """The reason is the server's, and it serves on."""
        name = "planner@v5-00000000000a"
        with pytest.raises(Declined, match="planner@v5"):
            await replica.load(name, tmp_path / "nowhere")
        assert name not in await replica.present()
