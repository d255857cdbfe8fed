"""What goes wrong in a simulation, and how often: a function of the seed."""

from random import Random

import msgspec

__all__ = ["CALM", "Faults"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are per opportunity, counts per simulation, times in virtual seconds."""

    latency_s: float = 0.0  #: mean time of a round trip to the ledger or the log
    model_s: float = 0.0  #: mean time of a model call
    crashes: int = 0  #: processes that die between two round trips of theirs
    crash_rate: float = 0.0
    kills: int = 0  #: processes that die at any time
    freezes: int = 0  #: processes that stand still, mostly beyond their leases
    renewal_loss: float = 0.0  #: renewals that do not arrive, so that leases run out under work
    drains: int = 0  #: processes that are asked to end, and are started again
    ledger_outages: int = 0
    ledger_error_rate: float = 0.0  #: round trips that are answered with an error
    log_outages: int = 0
    log_error_rate: float = 0.0
    duplicate_rate: float = 0.0  #: records that the log holds twice
    wipes: int = 0  #: single topics lost
    floods: int = 0  #: all topics lost, with the groups' offsets
    pauses: int = 0  #: the run is paused and resumed
    transient_rate: float = 0.0  #: model calls that fail for now
    late_rate: float = 0.0  #: model calls that ask to come back later
    within_s: float = 30.0  #: when the timed faults happen

    @staticmethod
    def drawn(random: Random) -> "Faults":
        """A mixture: each kind is absent in about half of all simulations."""

        def some(most: int) -> int:
            return random.randint(1, most) if random.random() < 0.5 else 0

        def rate(most: float) -> float:
            return random.uniform(0, most) if random.random() < 0.5 else 0.0

        return Faults(
            latency_s=random.choice([0.0, 0.001, 0.02, 0.2]),
            model_s=random.choice([0.0, 0.05, 0.5, 2.0]),
            crashes=some(8),
            crash_rate=random.choice([0.002, 0.01, 0.05]),
            kills=some(4),
            freezes=some(4),
            renewal_loss=random.choice([0.0, 0.0, 0.3, 1.0]),
            drains=some(2),
            ledger_outages=some(2),
            ledger_error_rate=rate(0.02),
            log_outages=some(2),
            log_error_rate=rate(0.02),
            duplicate_rate=rate(0.2),
            wipes=some(2),
            floods=some(1),
            pauses=some(2),
            transient_rate=rate(0.1),
            late_rate=rate(0.05),
            within_s=random.choice([5.0, 15.0, 40.0]),
        )


#: Nothing goes wrong and nothing takes time.
CALM = Faults()
