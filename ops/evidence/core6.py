"""core-6: malformed events are refused one by one, nothing else is lost, and no answer leaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mia_events import topics
from mia_events.steps import RunView
from ops.audit import Report, audit
from ops.chaos.broker import records_of
from ops.chaos.cluster import Cluster, Stack, cluster, scripted_manifest
from ops.chaos.desk import until
from ops.chaos.questions import Asked, cities, send
from ops.evidence.leaks import in_logs, in_tables, in_topics
from ops.evidence.malformed import CANARY, Bad, invented, malformed
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "malformed events are refused one by one, nothing else is lost, no answer leaks"
_LETTERS: Final = "SELECT count(*) FROM dead_letter"
_REASONS: Final = """
SELECT error_class, split_part(origin, '/', 1) AS topic, message <> '' AS told, count(*) AS n
FROM dead_letter GROUP BY 1, 2, 3
"""
_ROLES: Final = ("mia_worker", "mia_admit")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it all. `tables` are columns with the carried answer that a role can read,
    `sealed` those that only the auditor's role can, `searched` how many columns were looked at.
    """

    sent: int
    kinds: Mapping[str, int]
    letters: Mapping[str, int]
    silent: int
    facts: int
    questions: Mapping[str, int]
    invented: int
    audit_counts: Mapping[str, int]
    carried: int
    searched: Mapping[str, int]
    tables: Mapping[str, Mapping[str, int]]
    sealed: Mapping[str, int]
    log_lines: int
    topics: Mapping[str, int]


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Send malformed records with valid questions among them, each question twice."""
    count, valid, made_up = (160, 12, 10) if short else (2_000, 60, 50)
    async with cluster(stack, folder, model_options=("--malformed-rate", "0")) as lab:
        lab.hire("worker")
        run = await lab.create_run("pestered", _MANIFEST)
        bad, questions = list(malformed(run.name, count)), cities(valid)
        await _send_all(lab, run, bad, questions)
        await _send_commands(lab, [*bad, *invented(run.id, made_up)])
        await until("all is dealt with", lambda: _dealt_with(lab, run, count, valid), limit_s=300)
        await lab.close_run(run)
        await lab.until_ended(run)
        await until("all is published", lambda: _published(lab), limit_s=60)
        await lab.crew.stop_all()
        found = await _look(lab, run, bad, made_up)
    return Evidence(figures={"found": found}, claims=tuple(_judge(found, valid)))


_MANIFEST: Final = scripted_manifest(mode="live", deterministic=False, rollouts=1)


async def _send_all(
    lab: Cluster, run: RunView, bad: Sequence[Bad], questions: Sequence[Asked]
) -> None:
    """Send what is for the topics that anyone may write to, valid questions strewn in twice."""
    await lab.ask(run, questions[:1])  # takes position 0, which some others want
    await lab.until_accepted(run, 1)
    records = [(b"", item.value) for item in bad if item.topic == topics.QUESTION]
    step = max(1, len(records) // len(questions))
    for number, asked in enumerate(questions):
        place = number * (step + 2)
        records[place:place] = [(b"", asked.record(run.name))] * 2
    await send(lab.config.kafka, lab.topic(topics.QUESTION), records)
    labels = [(b"", item.value) for item in bad if item.topic == topics.FEEDBACK]
    await send(lab.config.kafka, lab.topic(topics.FEEDBACK), labels)


async def _send_commands(lab: Cluster, bad: Sequence[Bad]) -> None:
    for topic in sorted({item.topic for item in bad} - set(topics.INBOUND)):
        values = [(b"", item.value) for item in bad if item.topic == topic]
        await send(lab.config.kafka, lab.topic(topic), values)


async def _dealt_with(lab: Cluster, run: RunView, letters: int, valid: int) -> bool:
    accepted = await lab.desk.value("SELECT accepted FROM run WHERE run_no = $1", run.run_no)
    return bool(accepted >= valid and await lab.desk.value(_LETTERS) >= letters)


async def _published(lab: Cluster) -> bool:
    return bool(await lab.desk.value("SELECT count(*) FROM outbox") == 0)


async def _look(lab: Cluster, run: RunView, bad: Sequence[Bad], made_up: int) -> Found:
    reasons = await lab.desk.rows(_REASONS)
    statuses = await lab.desk.rows(
        "SELECT status, count(*) AS n FROM question WHERE run_no = $1 GROUP BY 1", run.run_no
    )
    report = await _audited(lab)
    searches = {role: await in_tables(lab.config.dsns[role], CANARY) for role in _ROLES}
    _, everywhere = await in_tables(lab.audit_dsn, CANARY)
    letters = (await records_of(lab, topics.DEAD_LETTER))[topics.DEAD_LETTER]
    return Found(
        sent=len(bad),
        kinds=Counter(item.kind for item in bad),
        letters=_by_topic(reasons),
        silent=sum(row["n"] for row in reasons if not row["told"]),
        facts=len({record.wire.id for record in letters if record.wire is not None}),
        questions={row["status"]: row["n"] for row in statuses},
        invented=made_up,
        audit_counts={str(check): count for check, count in report.counts.items()},
        carried=sum(CANARY.encode() in item.value for item in bad),
        searched={role: columns for role, (columns, _) in searches.items()},
        tables={role: where for role, (_, where) in searches.items()},
        sealed=everywhere,
        log_lines=await asyncio.to_thread(in_logs, lab.crew.logs(), CANARY),
        topics=await in_topics(lab, CANARY),
    )


def _by_topic(reasons: Sequence[Any]) -> dict[str, int]:
    letters: Counter[str] = Counter()
    for row in reasons:
        letters[f"{row['topic']} ({row['error_class']})"] += row["n"]
    return dict(letters)


async def _audited(lab: Cluster) -> Report:
    return await audit(lab.audit_dsn, lab.config.kafka, prefix=lab.config.prefix, closed=True)


def _judge(found: Found, valid: int) -> list[Claim]:
    letters = sum(found.letters.values())
    return [
        Claim(f"{found.sent} malformed records, {letters} dead letters", letters == found.sent),
        Claim("each says what is wrong", found.silent == 0),
        Claim("each is one fact on mia.dead-letter", found.facts == found.sent),
        Claim(
            f"all {valid} valid questions among them ended answered, each sent twice",
            found.questions == {"answered": valid},
        ),
        Claim(
            f"{found.invented} well-formed commands that the ledger knows nothing of changed "
            "nothing; the auditor names each of them and finds no other fault",
            found.audit_counts == {"record": found.invented},
        ),
        Claim(
            f"{found.carried} records carried an answer: no column that workers or admission can "
            f"read has it (of {min(found.searched.values())} searched)",
            found.carried > 0 and not any(found.tables.values()),
        ),
        Claim(
            "the same search as the auditor finds it, in sealed columns only",
            bool(found.sealed) and all(name.startswith("sealed.") for name in found.sealed),
        ),
        Claim("no log line of a worker has it", found.log_lines == 0),
        Claim(
            "no topic has it but those that its senders wrote to, record for record",
            sum(found.topics.values()) == found.carried
            and set(found.topics) <= {topics.QUESTION, topics.FEEDBACK},
        ),
    ]
