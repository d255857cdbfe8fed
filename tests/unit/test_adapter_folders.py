"""Adapters as servers read them."""

import os
from pathlib import Path

import pytest

from ops.evidence.adapters import packed, random_adapter
from ops.serving.adapters import AdapterFolders, Damaged, unpack
from tests.support.registry import MemoryArtifacts

_NAME = "planner@v1-0123456789ab"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_folder_is_made_once_and_holds_the_artifacts_files(tmp_path: Path) -> None:
    """Whoever asks again gets the same one, without the store."""
    store = MemoryArtifacts()
    sha = await store.put(random_adapter(1))
    folders = AdapterFolders(store, tmp_path)
    folder = await folders.ensure(_NAME, sha)
    assert {"adapter_config.json", "adapter_model.safetensors"} == set(_names(folder))
    store.data.clear()
    assert folder == await folders.ensure(_NAME, sha)
    assert [_NAME] == _names(tmp_path)


async def test_an_artifact_that_is_gone_leaves_no_folder(tmp_path: Path) -> None:
    """A server must never see half an adapter."""
    with pytest.raises(LookupError):
        await AdapterFolders(MemoryArtifacts(), tmp_path).ensure(_NAME, "0" * 64)
    assert [] == _names(tmp_path)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"no archive at all", "tar archive"),
        (packed({"adapter_config.json": b"{}"}), "without adapter_model.safetensors"),
        (packed({"../adapter_config.json": b"{}"}), "no '../adapter_config.json'"),
        (packed({"adapter_config.json": b"{}", "run.py": b""}), "no 'run.py'"),
    ],
)
def test_nothing_but_an_adapter_is_unpacked(tmp_path: Path, data: bytes, says: str) -> None:
    """An artifact is bytes from elsewhere: no file is written that an adapter does not have."""
    with pytest.raises(Damaged, match=says):
        unpack(data, tmp_path / "in" / _NAME)
    assert [] == _names(tmp_path / "in")
    assert ["in"] == _names(tmp_path)


def test_two_at_once_make_one_folder(tmp_path: Path) -> None:
    """The second finds the first one's files and leaves nothing behind."""
    data = random_adapter(1)
    unpack(data, tmp_path / _NAME)
    before = (tmp_path / _NAME / "adapter_config.json").stat().st_ino
    unpack(data, tmp_path / _NAME)
    assert before == (tmp_path / _NAME / "adapter_config.json").stat().st_ino
    assert [_NAME] == _names(tmp_path)


def test_only_old_folders_that_nobody_wants_are_removed(tmp_path: Path) -> None:
    """A server may still read a folder for a request that came before."""
    old, new, kept = (f"planner@v{n}-0123456789ab" for n in (1, 2, 3))
    for name in (old, new, kept, "something-else"):
        (tmp_path / name).mkdir()
    for name in (old, kept, "something-else"):
        os.utime(tmp_path / name, (0, 0))
    folders = AdapterFolders(MemoryArtifacts(), tmp_path)
    assert [old] == folders.forget({kept}, idle_s=3600)
    assert {new, kept, "something-else"} == set(_names(tmp_path))
