"""The one error that commands raise on purpose."""

from pathlib import Path

__all__ = ["Refused", "unreadable"]


class Refused(Exception):
    """A prerequisite is missing: `reason` says which, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason.rstrip('.')}. {remedy}")
        self.reason = reason
        self.remedy = remedy


def unreadable(file: Path, error: OSError) -> Refused:
    """Return the refusal of a file that cannot be read."""
    return Refused(f"cannot read {file}: {error.strerror or error}", "Check the path.")
