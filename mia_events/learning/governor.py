"""How far answering may run ahead of learning: staleness is bounded by who may start.

Nothing that was finished is thrown away for being ahead: what may not start waits. Only a label
that comes late can make a group too old for training; it still becomes memory.
"""

from __future__ import annotations


def may_open(batch: int, *, sealed: int, lag: int) -> bool:
    """Whether batch number `batch` (from 0) may open when `sealed` generations are final."""
    return batch <= sealed + lag


def pacing_problem(*, lag: int, staleness: int) -> str:
    """Why groups would be thrown away though their grades came in time; empty when none is.

    While a batch is answered, the `lag` batches before it and no others may still make a version.
    """
    if lag <= staleness:
        return ""
    return (
        f"with lag {lag} a group may be {lag} updates old when it is graded, but only "
        f"{staleness} are allowed: lower the lag or raise the staleness bound"
    )


__all__ = ["may_open", "pacing_problem"]
