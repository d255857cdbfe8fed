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


def room(
    *, limit: int, opened: int, without_label: int = 0, graded: int = 0, trained: int | None = None
) -> int:
    """How many more questions may open; below 0 when there are too many.

    `opened` are open, `without_label` of them wait for nothing but a label and keep nobody out.
    `graded` groups wait to be trained from; a live run gives in `trained` how many groups can be
    used before one that opens now is too old (`staleness + 1` batches).
    """
    bound = limit if trained is None else min(limit, trained - graded)
    return bound - opened + without_label


__all__ = ["may_open", "pacing_problem", "room"]
