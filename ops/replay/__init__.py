"""Replay: every step of a run taken again from what was recorded, and compared with the ledger."""

from ops.replay.replay import Difference, Replayed, replay

__all__ = ["Difference", "Replayed", "replay"]
