"""Updates by verl, each in a process of its own: the same bits whatever happens on the way."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from consumers.train.packing import unpack
from consumers.train.points import POINTS, VARIABLE
from mia_events.learning.job import Parent, Trained, TrainJob
from mia_events.steps import Poison, Transient
from tests.support import updates
from tests.support.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.timeout(900)
_PATIENCE_S = 240.0


class _Chain(msgspec.Struct):
    """Two versions, one upon the other, made without disturbance."""

    folder: Path
    model: Path
    first: Trained
    second: Trained


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> _Chain:
    """The undisturbed chain that others are compared with."""
    updates.python()
    folder = tmp_path_factory.mktemp("undisturbed")
    model = write_tiny_llama(folder / "model")
    return _chain(folder, model)


def _chain(folder: Path, model: Path) -> _Chain:
    trainer = updates.trainer(folder, model)
    first = asyncio.run(trainer.train(updates.job()))
    second = asyncio.run(trainer.train(updates.next_job(first)))
    return _Chain(folder, model, first, second)


def _shas(trained: Trained) -> tuple[str, str]:
    return trained.adapter_sha256, trained.optimizer_sha256


def test_a_chain_of_two_versions_is_the_same_bits_again(chain: _Chain, tmp_path: Path) -> None:
    """Other processes, another folder: weights and optimizer of both versions are equal."""
    again = _chain(tmp_path, chain.model)
    assert _shas(chain.first) == _shas(again.first)
    assert _shas(chain.second) == _shas(again.second)
    assert chain.second.determinants == again.second.determinants
    assert _shas(chain.first) != _shas(chain.second)


def test_an_adapter_says_nothing_of_where_it_was_made(chain: _Chain) -> None:
    """Its configuration names the model as servers do, so its hash is the same everywhere."""
    files = unpack((chain.folder / "artifacts" / chain.first.adapter_sha256).read_bytes())
    assert {"adapter_config.json", "adapter_model.safetensors"} == files.keys()
    config = msgspec.json.decode(files["adapter_config.json"])
    assert ("tiny", 4, 8) == tuple(
        config[n] for n in ("base_model_name_or_path", "r", "lora_alpha")
    )
    assert str(chain.folder).encode() not in files["adapter_config.json"]


def test_nothing_is_left_of_a_job(chain: _Chain) -> None:
    """What lasts are its artifacts."""
    assert [] == list((chain.folder / "jobs").iterdir())


def test_kills_change_no_bit(chain: _Chain, tmp_path: Path) -> None:
    """An update dies at each point in turn, in the engine or in the worker, and is then made."""
    _give_parent(tmp_path, chain)
    updates.write(tmp_path, updates.next_job(chain.first), chain.model)
    for point in POINTS:
        died = tmp_path / f"died {point}"
        assert 0 != _run(tmp_path, {VARIABLE: f"{point}@{died}"})
        assert died.exists()
        assert not (tmp_path / "trained.json").exists()
    assert 0 == _run(tmp_path, {})
    trained = msgspec.json.decode((tmp_path / "trained.json").read_bytes(), type=Trained)
    assert _shas(chain.second) == _shas(trained)
    assert [] == list((tmp_path / "jobs").iterdir())


def _give_parent(folder: Path, chain: _Chain) -> None:
    (folder / "artifacts").mkdir()
    for name in _shas(chain.first):
        (folder / "artifacts" / name).hardlink_to(chain.folder / "artifacts" / name)


def _run(folder: Path, environment: dict[str, str]) -> int:
    """Make the update in a process that may die; return its status."""

    async def run() -> int:
        process = await _start(folder, environment)
        return await asyncio.wait_for(process.wait(), _PATIENCE_S)

    return asyncio.run(run())


async def _start(folder: Path, environment: dict[str, str]) -> asyncio.subprocess.Process:
    command: Sequence[str] = (sys.executable, "-m", "tests.support.updates", str(folder))
    return await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stderr=asyncio.subprocess.DEVNULL
    )


async def test_an_engine_ends_with_its_worker(tmp_path: Path) -> None:
    """A killed worker leaves no process behind that trains what another is training."""
    updates.python()
    model = write_tiny_llama(tmp_path / "model")
    updates.write(tmp_path, updates.job(), model)
    worker = await _start(tmp_path, {})
    engine = await _child_of(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [engine], timeout=30)
    assert [] == alive


async def _child_of(pid: int) -> psutil.Process:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := psutil.Process(pid).children():
            return found[0]
        await asyncio.sleep(0.05)
    raise TimeoutError("the worker started no engine")


async def test_a_cancelled_update_leaves_no_engine(tmp_path: Path) -> None:
    """A worker that drains takes its engine along."""
    updates.python()
    trainer = updates.trainer(tmp_path, write_tiny_llama(tmp_path / "model"))
    training = asyncio.create_task(trainer.train(updates.job()))
    engine = await _child_of(os.getpid())
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert not engine.is_running()
    assert [] == list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize(
    "spoil, why",
    [
        ({"rows": ()}, "no rows"),
        ({"rows": tuple(msgspec.structs.replace(r, advantage=0.0) for r in updates.rows(1))}, "0"),
    ],
    ids=["nothing to train on", "nothing pulls"],
)
async def test_a_job_that_nothing_can_be_made_of_is_refused(
    spoil: dict[str, object], why: str, tmp_path: Path
) -> None:
    """It would be refused anywhere, so that it is poison and not a fault of this machine."""
    updates.python()
    trainer = updates.trainer(tmp_path, write_tiny_llama(tmp_path / "model"))
    work: TrainJob = msgspec.structs.replace(updates.job(), **spoil)
    with pytest.raises(Poison, match=why):
        await trainer.train(work)


async def test_tokens_of_another_model_are_refused(tmp_path: Path) -> None:
    """The embedding would be read past its end."""
    updates.python()
    trainer = updates.trainer(tmp_path, write_tiny_llama(tmp_path / "model"))
    first, *others = updates.rows(1)
    foreign = msgspec.structs.replace(first, prompt_ids=(9, 256))
    work = msgspec.structs.replace(updates.job(), rows=(foreign, *others))
    with pytest.raises(Poison, match="token 256, and the model knows 256"):
        await trainer.train(work)


async def test_a_parent_that_is_gone_is_named(tmp_path: Path) -> None:
    """Without starting an engine."""
    parent = Parent(policy="planner@v1", adapter_sha256="a" * 64)
    work = msgspec.structs.replace(updates.job(), policy="planner@v2", parent=parent)
    trainer = updates.trainer(tmp_path, tmp_path / "no model")
    with pytest.raises(Poison, match="planner@v2 goes on from planner@v1: no artifact a"):
        await trainer.train(work)


async def test_an_engine_that_fails_is_quoted(tmp_path: Path) -> None:
    """The end of its log says why; it may be this machine, so that it is tried again."""
    updates.python()
    trainer = updates.trainer(tmp_path, tmp_path / "no model")
    with pytest.raises(Transient, match=r"failed with status 1:(.|\n)*no model"):
        await trainer.train(updates.job())


async def test_an_update_has_a_time_limit(tmp_path: Path) -> None:
    """An engine that hangs does not hold its run for ever."""
    updates.python()
    trainer = updates.trainer(tmp_path, write_tiny_llama(tmp_path / "model"), limit_s=0.5)
    with pytest.raises(Transient, match=r"not done within 0\.5 s"):
        await trainer.train(updates.job())
