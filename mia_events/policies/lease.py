"""What the deaths of workers say about the command they were handling."""

from __future__ import annotations

import msgspec


class IsolationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """After `deaths_before_isolation` attempts that died with their worker a command runs alone.

    After `max_isolated_deaths` deaths in a process of its own it is dead-lettered. Only those
    count, so that random kills of workers never condemn an innocent command.
    """

    deaths_before_isolation: int = 2
    max_isolated_deaths: int = 2
    delay_s: float = 0.2

    def isolate(self, *, attempt: int, failures: int, isolated_deaths: int) -> bool:
        """Whether attempt number `attempt` (from 1) must run alone.

        Attempts that did not end in a stated failure died with their worker.
        """
        deaths = attempt - 1 - failures - isolated_deaths
        return isolated_deaths > 0 or deaths >= self.deaths_before_isolation

    def give_up(self, *, isolated_deaths: int) -> bool:
        """Whether that many deaths in isolation are enough."""
        return isolated_deaths >= self.max_isolated_deaths


__all__ = ["IsolationPolicy"]
