"""Real handlers over in-memory ledger, log and clock, scheduled from a seed."""
