"""What is kept: ports, the Postgres adapters behind them, and in-memory twins for the simulator."""
