"""Which model calls were repeated, and whether one was although its result had been recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ops.chaos.cluster import Cluster

__all__ = ["Calls", "count_calls"]

#: From a commit's time stamp, which its worker takes before it sends it, to the moment when others
#: can read it.
_COMMIT_S: Final = 2.0
_RECORDED = """
SELECT convert_from(result, 'UTF8')::json ->> 'model' AS model, at FROM effect
WHERE run_no = $1 AND kind = 'call' AND result IS NOT NULL
UNION ALL
SELECT convert_from(result, 'UTF8')::json ->> 'model', at FROM sealed.effect
WHERE run_no = $1 AND kind = 'call' AND result IS NOT NULL
"""


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Chats of a run: `asked` counts requests, `recorded` results in the ledger, `repeated` those
    beyond the first of a kind, `repeated_after_record` those of them that were made although
    a result was in the ledger, `unrecorded` chats that no result was ever kept of.
    """

    asked: int
    recorded: int
    repeated: int
    repeated_after_record: int
    unrecorded: int


async def count_calls(cluster: Cluster, run_no: int) -> Calls:
    """Compare what the signed scripted model was asked with what the ledger holds of a run.

    The model must have been reset before the run.
    """
    rows = await cluster.desk.rows(_RECORDED, run_no)
    recorded = {row["model"].rpartition("@")[2]: row["at"].timestamp() for row in rows}
    return _count((await cluster.model.stats())["chat_times"], recorded, len(rows))


def _count(times: Mapping[str, Any], recorded: Mapping[str, float], rows: int) -> Calls:
    late = sum(
        moment > recorded[digest] + _COMMIT_S
        for digest, moments in times.items()
        if digest in recorded
        for moment in moments
    )
    return Calls(
        asked=sum(map(len, times.values())),
        recorded=rows,
        repeated=sum(len(moments) - 1 for moments in times.values()),
        repeated_after_record=late,
        unrecorded=len(set(times) - set(recorded)),
    )
