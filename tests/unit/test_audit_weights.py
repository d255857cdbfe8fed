"""Weights made again from the ledger: what is equal, what is a fault, what this machine cannot say.

The jobs are those of `tests/simulation/test_jobs_made_again.py`; here a trainer stands in that is a
pure function of its job, and then one that is not.
"""

import json
import uuid
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import numpy as np
import pytest

from consumers.train.packing import pack
from mia_events.learning.job import Determinants, Trained, TrainJob
from mia_events.steps import Transient
from ops.audit.weights import Rebuilt, audit_weights, lineage
from ops.replay.jobs import Remade
from storage.ports import Artifacts, PolicyRow
from tests.support.updates import job, next_job

_THEN = Determinants(
    cpu="a", device="cpu", threads=2, processes=1, builds={"torch": "2"}, model_sha256="m"
)


class _Store:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        name = sha256(data).hexdigest()
        self.kept[name] = data
        return name

    async def get(self, sha256: str) -> bytes:
        return self.kept[sha256]


class _Engine:
    """Makes of a job an adapter whose one number follows from it, plus `off`."""

    def __init__(self, store: Artifacts, now: Determinants = _THEN, off: float = 0.0) -> None:
        self._store, self._now, self._off = store, now, off

    async def train(self, work: TrainJob) -> Trained:
        if work.parent.adapter_sha256:
            await self._store.get(work.parent.adapter_sha256)
        value = sum(row.advantage * len(row.token_ids) for row in work.rows) + self._off
        return Trained(
            adapter_sha256=await self._store.put(_adapter(value)),
            optimizer_sha256=await self._store.put(f"moments {value}".encode()),
            metrics={},
            determinants=self._now,
            seconds=1.0,
        )


def _adapter(value: float) -> bytes:
    names = ("lora_A", "lora_B")
    header, data = {}, b""
    for name in names:
        raw = np.array([[value if name == "lora_B" else 1.0]], np.float32).tobytes()
        header[f"base_model.model.q.{name}.weight"] = {
            "dtype": "F32", "shape": [1, 1], "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    config = json.dumps({"r": 1, "lora_alpha": 1}).encode()
    file = len(text).to_bytes(8, "little") + text + data
    return pack({"adapter_config.json": config, "adapter_model.safetensors": file})


class _History:
    """Two versions, one upon the other, as the registry and the ledger have them."""

    def __init__(self, store: _Store, first: Trained, second: Trained) -> None:
        self.store = store
        self.rows = [_row(1, "base", first), _row(2, "planner@v1", second)]
        self.remade = [
            Remade(job=job(), trained=first, same=True),
            Remade(job=next_job(first), trained=second, same=True),
        ]

    async def audit(self, now: Determinants = _THEN, off: float = 0.0) -> tuple[Rebuilt, ...]:
        told: list[Rebuilt] = []
        asked: list[Determinants] = []

        def engine(made_with: Determinants, store: Artifacts) -> _Engine:
            asked.append(made_with)
            return _Engine(store, now, off)

        found = await audit_weights(self.rows, self.remade, self.store, engine, told.append)
        assert list(found) == told
        assert all(
            one.trained is None or one.trained.determinants in asked
            for one in self.remade
            if one.same
        )
        return found


def _row(number: int, parent: str, made: Trained) -> PolicyRow:
    return PolicyRow(
        run_no=1,
        number=number,
        name=f"planner@v{number}",
        parent=parent,
        batch=number,
        state="promoted",
        adapter_sha256=made.adapter_sha256,
        optimizer_sha256=made.optimizer_sha256,
        data_sha256="",
        record=b"{}",
        event_id=uuid.UUID(int=number),
        at=datetime.now(UTC),
    )


@pytest.fixture
async def history() -> _History:
    """As it was made, undisturbed."""
    store = _Store()
    first = await _Engine(store).train(job())
    return _History(store, first, await _Engine(store).train(next_job(first)))


async def test_the_same_machine_makes_the_same_bits(history: _History) -> None:
    """Nothing is a fault, nothing is open."""
    found = await history.audit()
    assert ["equal", "equal"] == [one.verdict for one in found]
    assert [row.adapter_sha256 for row in history.rows] == [one.rebuilt for one in found]
    assert not any(one.is_fault or one.is_open for one in found)


async def test_another_machine_is_not_comparable(history: _History) -> None:
    """It says what is another, and by how much weights differ at most."""
    now = msgspec.structs.replace(_THEN, cpu="b", builds={"torch": "3"})
    first, second = await history.audit(now, off=0.25)
    assert ("not comparable", "not comparable") == (first.verdict, second.verdict)
    assert "it was made with another cpu, another torch" == first.why
    assert 0.25 == first.largest
    assert first.is_open
    assert not first.is_fault


async def test_a_gpu_is_not_held_to_its_bits(history: _History) -> None:
    """Some of its kernels add in another order each time, however alike the machines are."""
    gpu = msgspec.structs.replace(_THEN, device="a GPU")
    for number, made in enumerate(history.remade):
        assert made.trained is not None
        trained = msgspec.structs.replace(made.trained, determinants=gpu)
        history.remade[number] = msgspec.structs.replace(made, trained=trained)
    first, _ = await history.audit(gpu, off=0.5)
    assert ("not comparable", "a GPU adds in no fixed order") == (first.verdict, first.why)


async def test_other_bits_on_the_same_machine_are_a_fault(history: _History) -> None:
    """There is no excuse for them."""
    first, _ = await history.audit(off=0.5)
    assert ("different", 0.5) == (first.verdict, first.largest)
    assert first.is_fault


async def test_a_changed_ledger_is_a_fault_of_its_version_alone(history: _History) -> None:
    """The one after it stands upon the artifact that was recorded."""
    history.remade[0] = msgspec.structs.replace(history.remade[0], same=False)
    found = await history.audit()
    assert ["another job", "equal"] == [one.verdict for one in found]


async def test_a_ledger_that_leads_nowhere_is_a_fault(history: _History) -> None:
    """A version that nothing recorded explains."""
    del history.remade[0]
    found = await history.audit()
    assert ["no job", "equal"] == [one.verdict for one in found]


async def test_an_engine_that_cannot_is_told(
    history: _History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine, perhaps for want of memory: neither a fault nor equal."""

    async def fails(_: _Engine, __: TrainJob) -> Trained:
        raise Transient("it was killed by SIGKILL")

    monkeypatch.setattr(_Engine, "train", fails)
    first, _ = await history.audit()
    assert ("not made", "it was killed by SIGKILL") == (first.verdict, first.why)
    assert first.is_open


async def test_a_lineage_leaves_other_branches_out(history: _History) -> None:
    """Versions that were held back are no ancestors of what came after."""
    first, second = history.rows
    third = msgspec.structs.replace(second, name="planner@v3")
    assert (first, third) == lineage([first, second, third], "planner@v3")
    with pytest.raises(LookupError, match=r"planner@v9 is no version .*: planner@v1, planner@v2"):
        lineage([first, second], "planner@v9")
    with pytest.raises(LookupError, match=r"planner@v2 grew from planner@v1, which"):
        lineage([second], "planner@v2")


async def test_weights_that_are_lost_leave_the_other_versions_their_verdict(
    history: _History,
) -> None:
    """How far they are apart cannot be told then."""
    first = history.rows[0]
    history.rows[0] = msgspec.structs.replace(first, adapter_sha256="0" * 64)
    found = await history.audit()
    assert ["different", "equal"] == [one.verdict for one in found]
    assert (None, True) == (found[0].largest, "how far is not known" in found[0].why)
