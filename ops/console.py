"""Where commands print."""

from rich.console import Console

__all__ = ["console", "warn"]


def console() -> Console:
    """Return where answers are printed; nothing is wrapped, so that it can be cut and pasted."""
    return Console(highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Say on standard error what did not stop the command."""
    Console(stderr=True, soft_wrap=True).print(message, markup=False, style="yellow")
