"""How far answering may run ahead of learning: staleness is bounded by who may start.

Nothing that was finished is thrown away for being ahead: what may not start waits. Only a label
that comes late can make a group too old for training; it still becomes memory.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Governor(msgspec.Struct, frozen=True, kw_only=True):
    """`lag` is how many generations a batch may be behind, `staleness` how many updates a group may
    be when it is trained from, `batch_size` the groups of an update.
    """

    lag: Count
    staleness: Count
    batch_size: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def problem(self) -> str:
        """Why groups would be thrown away though their grades came in time; empty when none is."""
        if self.lag <= self.staleness:
            return ""
        return (
            f"with lag {self.lag} a group may be {self.lag} updates old when it is graded, but "
            f"only {self.staleness} are allowed: lower the lag or raise the staleness bound"
        )

    def may_open(self, batch: int, sealed: int) -> bool:
        """Whether batch number `batch` (from 0) may open when `sealed` generations are final."""
        return batch <= sealed + self.lag

    def room(self, unlearned: int) -> int:
        """How many questions may start in live mode, while `unlearned` are open or untrained."""
        return max(0, (self.lag + 1) * self.batch_size - unlearned)


__all__ = ["Governor"]
