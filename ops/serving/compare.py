"""What two versions differ in: how they were made, and their weights."""

from collections.abc import Mapping
from typing import Any, Final

from ops.serving.lora import Adapter, Checkpoint, distance

__all__ = ["differences", "weights_apart"]

_FARTHEST: Final = 5


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what differs in two records, tables in them by dotted names; None for what lacks."""
    flat, others = _flat(one), _flat(other)
    return {
        key: [flat.get(key), others.get(key)]
        for key in sorted(flat.keys() | others.keys())
        if flat.get(key) != others.get(key)
    }


def weights_apart(
    one: Adapter | Checkpoint | None, other: Adapter | Checkpoint | None
) -> dict[str, Any]:
    """Return how far apart weights are: how many differ, the norm and the largest value of the
    difference over all, and the norms of those that are farthest.
    """
    apart = distance(one, other)
    farthest = sorted(apart, key=lambda name: -apart[name][0])[:_FARTHEST]
    return {
        "differ": len(apart),
        "norm": sum(norm**2 for norm, _ in apart.values()) ** 0.5,
        "largest": max((most for _, most in apart.values()), default=0.0),
        "farthest": {name: apart[name][0] for name in farthest},
    }


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found
