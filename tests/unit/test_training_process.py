"""The engine's process, as far as it goes without torch: what it sees, what becomes of its end.

The core's own Python stands in for the train environment's: it refuses unfit jobs as that one does,
and fails where torch is wanted.
"""

import os
import platform
import sys
from pathlib import Path

import msgspec
import pytest

from consumers.train.points import VARIABLE
from mia_events.learning.handover import LEASH
from mia_events.steps import Poison, Transient
from ops.training.process import Launch, surroundings
from ops.training.trainer import EngineTrainer, Machine
from tests.support.updates import FolderArtifacts, job

_DEAD = 2**22 + 1  # above the largest process id of Linux


def _trainer(folder: Path) -> EngineTrainer:
    machine = Machine(launch=Launch(Path(sys.executable)), model=folder, folder=folder / "jobs")
    return EngineTrainer(machine, FolderArtifacts(folder / "artifacts"))


def test_an_engine_sees_no_secret() -> None:
    """What it does not need may hold a password."""
    found = surroundings(
        {
            "PATH": "/bin",
            "CUDA_VISIBLE_DEVICES": "0",
            "PGPASSWORD": "hidden",
            "MIA_POSTGRES__DSN": "hidden",
            "HF_TOKEN": "hidden",
            "PYTHONPATH": "/elsewhere",
            VARIABLE: "after_load@/x",
        }
    )
    assert "hidden" not in found.values()
    assert "PYTHONPATH" not in found
    assert ("/bin", "0", "after_load@/x") == (
        found["PATH"],
        found["CUDA_VISIBLE_DEVICES"],
        found[VARIABLE],
    )
    assert {LEASH: "1", "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1"}.items() <= found.items()


def test_several_processes_are_torchruns_to_start() -> None:
    """One is started as it is."""
    one = Launch(Path("/e/python")).argv(Path("/job"))
    two = Launch(Path("/e/python"), processes=2).argv(Path("/job"))
    assert ["/e/python", "/job"] == [one[0], one[-1]]
    assert "torch.distributed.run" not in one
    assert ["/e/python", "-m", "torch.distributed.run"] == two[:3]
    assert "--nproc-per-node=2" in two
    assert one[1:] == two[-2:]


async def test_an_unfit_job_is_poison(tmp_path: Path) -> None:
    """It would be one on any machine; nothing of it stays."""
    with pytest.raises(Poison, match="the job has no rows"):
        await _trainer(tmp_path).train(msgspec.structs.replace(job(), rows=()))
    assert [] == list((tmp_path / "jobs").iterdir())


async def test_an_engine_that_fails_is_quoted(tmp_path: Path) -> None:
    """Another time or machine may do better."""
    with pytest.raises(Transient, match=r"failed with status 1:(.|\n)*No module named 'torch'"):
        await _trainer(tmp_path).train(job())


async def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """And nothing of one that lives, or may live on another host."""
    here = tmp_path / "jobs"
    mine, dead = (here / f"update-{platform.node()}-{pid}-x" for pid in (os.getpid(), _DEAD))
    elsewhere = here / f"update-another-host-{_DEAD}-x"
    for folder in (mine, dead, elsewhere):
        folder.mkdir(parents=True)
    with pytest.raises(Poison):
        await _trainer(tmp_path).train(msgspec.structs.replace(job(), rows=()))
    assert {mine, elsewhere} == set(here.iterdir())
