"""From an order in a folder to an outcome there; sets up the process before torch is loaded."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from consumers.train.engine.check import UnfitError, check
from consumers.train.points import point
from mia_events.learning.handover import LEASH, ORDER, OUTCOME, Order, Outcome, Unfit

#: A process that nobody started with its fellows is alone.
_ALONE: Final = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",  # never opened: processes meet in a file
}


def run(folder: Path) -> None:
    """Do what the order says. An error that is no `UnfitError` is a fault of the machine or ours:
    it ends the process with its trace, and no outcome is left.
    """
    if os.environ.get(LEASH):
        threading.Thread(target=_end_with_starter, daemon=True).start()
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    for name, value in (_ALONE | surroundings(order)).items():
        os.environ.setdefault(name, value)
    try:
        check(order.job)
        outcome = _update(folder, order)
    except UnfitError as error:
        outcome = Unfit(why=str(error))
    if os.environ["RANK"] == "0":
        point("before_result")
        _leave(folder / OUTCOME, outcome)


def surroundings(order: Order) -> dict[str, str]:
    """What libraries read while they are loaded: the same bits each time, and no network."""
    threads = str(order.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Beside servers that want the same cores, threads that wait in a loop take them away.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Intel's library picks another order of summation by where memory happens to lie, else.
        "MKL_CBWR": "AUTO",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VERL_PLATFORM": "cpu" if order.device == "cpu" else "nvidia",
        **({"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}),
    }


def _end_with_starter() -> None:
    """Wait for the input to be closed: nobody is left who would take the outcome."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _update(folder: Path, order: Order) -> Outcome:
    """Load torch, then verl: each looks at what was set before, while it is loaded."""
    from consumers.train.engine.processes import joined  # noqa: PLC0415

    with joined(folder, order):
        from consumers.train.engine.update import update  # noqa: PLC0415

        return update(folder, order)


def _leave(path: Path, outcome: Outcome) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(msgspec.json.encode(outcome))
    draft.rename(path)


__all__ = ["run", "surroundings"]
