"""What tests share."""

__all__: list[str] = []
