"""Pure code: no process, no network."""
