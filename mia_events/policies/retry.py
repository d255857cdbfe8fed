"""What to do about a failed attempt, by the class of its error."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from mia_events.steps import Late, Poison, Transient


class Decision(msgspec.Struct, frozen=True):
    """Try again after `delay_s` seconds; None: give up and dead-letter.

    `counts`: whether it was a failure of the command.
    """

    delay_s: float | None
    counts: bool = True


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential back-off with jitter that is a function of the command, not of chance.

    `max_failures` stated failures of a transient kind, and `max_defects` of an unexpected one (an
    error that no handler should raise), are retried; the next is the last.
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    max_failures: int = 8
    max_defects: int = 2

    def decide(self, error: BaseException, *, failures: int, key: str) -> Decision:
        """The decision after `failures` earlier stated failures of the command `key`."""
        match error:
            case Poison():
                return Decision(None)
            case Late(delay_s=delay_s):
                return Decision(delay_s, counts=False)
            case ConnectionError():  # the ledger is away: no command is to blame, however long
                return Decision(self.delay_s(failures, key), counts=False)
            case Transient():
                return self._again(failures, self.max_failures, key)
            case _:
                return self._again(failures, self.max_defects, key)

    def _again(self, failures: int, limit: int, key: str) -> Decision:
        return Decision(self.delay_s(failures, key) if failures < limit else None)

    def delay_s(self, failures: int, key: str) -> float:
        """Seconds before try number `failures` + 2: base · 2^failures, capped, times 0.5 to 1."""
        whole = min(self.cap_s, self.base_s * 2.0 ** min(failures, 30))
        digest = sha256(f"{key}\x1f{failures}".encode()).digest()
        return whole * (0.5 + digest[0] / 510)


__all__ = ["Decision", "RetryPolicy"]
