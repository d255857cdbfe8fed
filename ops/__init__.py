"""Operations: composition root, command line, embedded stack. Only this package wires."""

__all__: list[str] = []
