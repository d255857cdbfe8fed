"""Adapters as servers read them."""

import os
from pathlib import Path

import pytest

from consumers.train.packing import pack
from ops.evidence.adapters import random_adapter
from ops.serving.folders import ADAPTER_FILES, Damaged, VersionFolders, unpack_adapter
from tests.support.registry import MemoryArtifacts

_NAME = "planner@v1-0123456789ab"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_folder_is_made_once_and_holds_the_artifacts_files(tmp_path: Path) -> None:
    """Whoever asks again gets the same one, without the store."""
    store = MemoryArtifacts()
    sha = await store.put(random_adapter(1))
    folders = VersionFolders(store, tmp_path)
    folder = await folders.ensure(_NAME, sha)
    assert {"adapter_config.json", "adapter_model.safetensors"} == set(_names(folder))
    store.data.clear()
    assert folder == await folders.ensure(_NAME, sha)
    assert [_NAME] == _names(tmp_path)


async def test_an_artifact_that_is_gone_leaves_no_folder(tmp_path: Path) -> None:
    """A server must never see half an adapter."""
    with pytest.raises(LookupError):
        await VersionFolders(MemoryArtifacts(), tmp_path).ensure(_NAME, "0" * 64)
    assert [] == _names(tmp_path)


@pytest.mark.parametrize(
    "data, says",
    [
        (b"no archive at all", "no tar"),
        (pack({"adapter_config.json": b"{}"}), "adapter_model.safetensors is missing"),
        (pack({"../adapter_config.json": b"{}"}), "only plain files"),
        (pack(dict.fromkeys((*ADAPTER_FILES, "run.py"), b"")), "run.py is odd"),
    ],
)
def test_nothing_but_an_adapter_is_unpack(tmp_path: Path, data: bytes, says: str) -> None:
    """An artifact is bytes from elsewhere: no file is written that an adapter does not have."""
    with pytest.raises(Damaged, match=says):
        unpack_adapter(data, tmp_path / "in" / _NAME)
    assert [] == _names(tmp_path)


def test_two_at_once_make_one_folder(tmp_path: Path) -> None:
    """The second finds the first one's files and leaves nothing behind."""
    data = random_adapter(1)
    unpack_adapter(data, tmp_path / _NAME)
    before = (tmp_path / _NAME / "adapter_config.json").stat().st_ino
    unpack_adapter(data, tmp_path / _NAME)
    assert before == (tmp_path / _NAME / "adapter_config.json").stat().st_ino
    assert [_NAME] == _names(tmp_path)


def test_only_folders_that_nobody_wants_for_long_are_removed(tmp_path: Path) -> None:
    """A server may still read a folder for a request that came before."""
    gone, back, kept = (f"planner@v{n}-0123456789ab" for n in (1, 2, 3))
    for name in (gone, back, kept, "something-else"):
        (tmp_path / name).mkdir()
    folders = VersionFolders(MemoryArtifacts(), tmp_path)
    assert [] == folders.forget({kept}, idle_s=60)
    assert [] == folders.forget({kept, back}, idle_s=60)
    assert [gone] == folders.forget({kept, back}, idle_s=0)
    assert [] == folders.forget({kept}, idle_s=60)
    assert {back, kept, "something-else"} == set(_names(tmp_path))


def test_what_a_kill_left_half_done_is_removed_when_it_is_old(tmp_path: Path) -> None:
    """A draft that somebody may still be writing stays."""
    old, new = tmp_path / ".draft-old", tmp_path / ".draft-new"
    for draft in (old, new):
        draft.mkdir()
    os.utime(old, (0, 0))
    VersionFolders(MemoryArtifacts(), tmp_path).forget((), idle_s=0)
    assert [".draft-new"] == _names(tmp_path)


def test_there_need_be_no_folder(tmp_path: Path) -> None:
    """No run has trained yet."""
    assert [] == VersionFolders(MemoryArtifacts(), tmp_path / "none").forget((), idle_s=0)
