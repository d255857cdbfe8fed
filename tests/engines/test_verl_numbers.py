"""verl's numbers against plain PyTorch's for the same loss (`ops.evidence.plain_grpo`)."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mia_events.learning.job import Hyper, TrainJob
from ops.evidence.plain import Comparison, compared
from tests.support import updates
from tests.support.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.timeout(900)


def _hyper(**changes: Any) -> Hyper:
    """Without decay: a fresh adapter's A stays what it was, so that it can be compared."""
    found: Hyper = msgspec.structs.replace(updates.HYPER, weight_decay=0.0, **changes)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model for all."""
    updates.python()
    return write_tiny_llama(tmp_path_factory.mktemp("numbers") / "model")


def _compared(folder: Path, model: Path, job: TrainJob, processes: int = 1) -> Comparison:
    trainer = updates.trainer(folder, model, keep=True, processes=processes)
    asyncio.run(trainer.train(job))
    (left,) = (folder / "jobs").iterdir()
    return compared(updates.python(), left)


def _assert_equal(found: Comparison, tensors: int) -> None:
    """To the precision of fp32 and of sums in another order."""
    assert tensors == found.gradient_tensors
    assert 1e-5 > found.loss_gap
    assert 1e-4 > found.gradient_worst
    assert 5e-5 > found.weights_worst  # of steps of 1e-3
    assert 1e-5 > found.divergence_gap


@pytest.mark.parametrize(
    "hyper, tensors",
    [
        (_hyper(), 14),
        (_hyper(importance=0.0, aggregate="seq-mean-token-mean", max_grad_norm=0.01), 14),
        (_hyper(lora_rank=0, epochs=2, clip_low=0.01, clip_high=0.03, clip_dual=1.02), 20),
    ],
    ids=["importance", "row mean, clipped gradient", "every weight, two passes, clipped ratios"],
)
def test_loss_gradients_and_step_are_those_of_plain_torch(
    hyper: Hyper, tensors: int, model: Path, tmp_path: Path
) -> None:
    """In every tensor that has a gradient."""
    _assert_equal(_compared(tmp_path, model, updates.job(hyper)), tensors)


@pytest.mark.parametrize(
    "hyper, tensors",
    [(_hyper(kl=0.5), 28), (_hyper(lora_rank=0), 20)],
    ids=["an adapter and its divergence from the base model", "every weight"],
)
def test_a_second_version_goes_on_where_the_first_was(
    hyper: Hyper, tensors: int, model: Path, tmp_path: Path
) -> None:
    """With the weights and moments of its parent."""
    first = msgspec.structs.replace(hyper, lr=1e-2, kl=0.0)
    trained = asyncio.run(updates.trainer(tmp_path, model).train(updates.job(first)))
    _assert_equal(_compared(tmp_path, model, updates.next_job(trained, hyper)), tensors)


def test_two_processes_share_an_update(model: Path, tmp_path: Path) -> None:
    """Seven rows, so that one of the two gets a row that counts for nothing."""
    work = msgspec.structs.replace(updates.job(_hyper()), rows=updates.rows(1)[:7])
    _assert_equal(_compared(tmp_path, model, work, processes=2), tensors=14)
