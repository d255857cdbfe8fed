"""When dead letters say that the consumer is at fault and not its records."""

from __future__ import annotations

import msgspec


class Tally(msgspec.Struct, frozen=True):
    """What a consumer saw since it started: records, dead letters, and the latest run of those."""

    seen: int = 0
    dead: int = 0
    run: int = 0

    def after(self, *, dead: bool) -> Tally:
        """The tally with one more record."""
        if not dead:
            return Tally(self.seen + 1, self.dead, 0)
        return Tally(self.seen + 1, self.dead + 1, self.run + 1)


class DeadLetterLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer past the limit stops instead of draining a topic after a bad deployment.

    The limit is `max_run` dead letters in a row, or more than `max_ratio` of all records once
    `least` were seen.
    """

    max_run: int = 100
    max_ratio: float = 0.5
    least: int = 200

    def exceeded(self, tally: Tally) -> str | None:
        """Why to stop, or None."""
        if tally.run >= self.max_run:
            return f"{tally.run} dead letters in a row: stopped; look at the newest one's error"
        if tally.seen >= self.least and tally.dead > self.max_ratio * tally.seen:
            return f"{tally.dead} of {tally.seen} records are dead letters: stopped"
        return None


__all__ = ["DeadLetterLimit", "Tally"]
