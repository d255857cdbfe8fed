"""The command line `mia`: one module per group of commands, registered in `ops.cli.main`."""

__all__: list[str] = []
