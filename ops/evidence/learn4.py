"""learn-4: the weights of every version are made again; a changed reward shows at its version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from ops.audit.weights import Rebuilt
from ops.chaos.cluster import Cluster, Stack
from ops.chaos.doom import struck
from ops.chaos.learner import learning_lab
from ops.evidence.forged import FORGERIES, copied, database_of, forge
from ops.evidence.learn3 import judge_struck, load_of
from ops.evidence.record import Claim, Evidence
from ops.evidence.user import User

__all__ = ["TITLE", "evidence"]

TITLE: Final = "mia audit weights makes every version again, and finds the one whose reward changed"
_RUN: Final = "struck"
_EQUAL, _FAULTS = 0, 1
_decode = msgspec.json.Decoder(Rebuilt).decode


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """What `mia audit weights` said, and what `mia audit` finds in the same ledger."""

    status: int
    versions: tuple[Rebuilt, ...]
    ordinary: dict[str, int]
    changed: dict[str, Any] = {}

    @property
    def verdicts(self) -> dict[str, str]:
        """By version, in the order in which they were made."""
        return {one.version: one.verdict for one in self.versions}


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Train with a trainer that dies at every point; audit the ledger, then copies of it in which
    the second version's rewards were changed, each in another way.
    """
    load, updates = (load_of(2), 1) if short else (load_of(4), 2)
    async with learning_lab(stack, folder / "lab") as lab:
        killed = await struck(lab, folder / "doom", load, updates=updates)
        await lab.crew.stop_all()  # a database is copied while nobody works on it
        looker = _Looker(stack, lab, folder)
        whole = await looker.audited(database_of(lab.audit_dsn))
        changed = killed.run.versions[:2][-1].name
        forged = {name: await looker.forged(name, changed) for name in FORGERIES}
    return Evidence(
        figures={"run": killed, "as it is": whole, "with a change": forged},
        claims=(
            *judge_struck(killed, updates),
            _judge_whole(whole, len(killed.run.versions)),
            *(_judge_forged(name, found, changed) for name, found in forged.items()),
        ),
    )


class _Looker:
    """Runs the commands of an auditor on a database of the lab's server, as on any external one."""

    def __init__(self, stack: Stack, lab: Cluster, folder: Path) -> None:
        self._stack, self._lab, self._folder = stack, lab, folder

    async def audited(self, database: str) -> Audited:
        """Audit all weights, and the ledger."""
        someone = User(self._folder / "lab", await asyncio.to_thread(self._settings, database))
        ran = await someone.mia("audit", "weights", "--run", _RUN, "--json", may_fail=True)
        told = await someone.told("audit", _RUN, "--no-topics", "--json", may_fail=True)
        return Audited(
            status=ran.status,
            versions=tuple(_decode(line) for line in ran.lines if line.startswith("{")),
            ordinary=told[-1]["counts"] if told else {},
        )

    async def forged(self, name: str, version: str) -> Audited:
        """Audit a copy in which something that a version was made from was changed."""
        database = database_of(self._lab.audit_dsn)
        async with copied(self._stack.admin_dsn, database) as dsn:
            changed = await forge(dsn, _RUN, version, FORGERIES[name])
            found = await self.audited(database_of(dsn))
        return msgspec.structs.replace(found, changed=changed)

    def _settings(self, database: str) -> dict[str, str]:
        """Return the settings; passwords go into files of the lab's folder."""
        admin, auditor = urlsplit(self._stack.admin_dsn), urlsplit(self._lab.audit_dsn)
        host = admin.netloc.rpartition("@")[2]
        dsn = admin._replace(netloc=f"{admin.username}@{host}", path=f"/{database}")
        return {
            "MIA_KAFKA__MODE": "external",
            "MIA_KAFKA__BOOTSTRAP_SERVERS": self._stack.bootstrap_servers,
            "MIA_POSTGRES__MODE": "external",
            "MIA_POSTGRES__DSN": dsn.geturl(),
            "MIA_POSTGRES__PASSWORD_FILES__ADMIN": self._secret("admin", admin.password),
            "MIA_POSTGRES__PASSWORD_FILES__MIA_AUDIT": self._secret("audit", auditor.password),
            "MIA_TRAINING__MODEL": str(self._folder / "lab" / "tiny"),
        }

    def _secret(self, name: str, password: str | None) -> str:
        path = self._folder / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(unquote(password or ""))
        return str(path)


def _judge_whole(found: Audited, versions: int) -> Claim:
    seconds = [one.seconds for one in found.versions]
    equal = [verdict for verdict in found.verdicts.values() if verdict == "equal"]
    return Claim(
        f"{len(equal)} of {versions} versions were made again, each in a fresh process, bit by bit"
        f" the same, in {sum(seconds):.0f} s; the ordinary audit is clean",
        found.status == _EQUAL and len(equal) == versions > 1 and not found.ordinary,
    )


def _judge_forged(name: str, found: Audited, version: str) -> Claim:
    at_fault = [one.version for one in found.versions if one.is_fault]
    others = [one.verdict for one in found.versions if one.version != version]
    verdict = found.verdicts.get(version, "nothing")
    return Claim(
        f"{name} ({found.changed['bytes']} changed) shows at {version} alone, as {verdict!r}; the"
        f" other {len(others)} are equal",
        found.status == _FAULTS and at_fault == [version] and set(others) == {"equal"},
    )
