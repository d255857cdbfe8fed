"""The one error that commands raise on purpose."""

__all__ = ["Refused"]


class Refused(Exception):
    """A prerequisite is missing: `reason` says which, `remedy` what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason.rstrip('.')}. {remedy}")
        self.reason = reason
        self.remedy = remedy
