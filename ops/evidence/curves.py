"""Curves of several runs as a picture: a thin line for each, a thick one for the mean of a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean
from typing import Final

import msgspec

__all__ = ["Curve", "mean_of", "picture"]

_WIDTH, _HEIGHT = 720.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 16.0, 56.0, 44.0
_TICKS: Final = 5
_COLOURS: Final = ("#1f6feb", "#8c959f", "#1a7f37", "#cf222e")
_STYLE: Final = "text{font:12px system-ui,sans-serif;fill:#24292f}"


class Curve(msgspec.Struct, frozen=True):
    """A run's values in [0, 1], by update; runs of one name have a mean."""

    name: str
    points: tuple[tuple[int, float], ...]


def mean_of(curves: Iterable[Curve]) -> tuple[tuple[int, float], ...]:
    """Return the mean at each update over the curves that have a value there."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        for update, value in curve.points:
            found.setdefault(update, []).append(value)
    return tuple((update, fmean(values)) for update, values in sorted(found.items()))


def picture(title: str, curves: Sequence[Curve]) -> str:
    """Return the curves as SVG; both axes begin at 0, values end at 1."""
    last = max((update for curve in curves for update, _ in curve.points), default=1)
    colours = dict(zip(dict.fromkeys(one.name for one in curves), _COLOURS, strict=False))
    parts = [_text(_LEFT, 20, title), *_grid(last)]
    parts += [_line(one.points, colours[one.name], 1.0, last) for one in curves]
    for place, (name, colour) in enumerate(colours.items()):
        mean = mean_of(one for one in curves if one.name == name)
        parts.append(_line(mean, colour, 3.0, last))
        parts.append(_text(_LEFT + 200 * place, 42, name, colour))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH:g} {_HEIGHT:g}' "
        f"width='{_WIDTH:g}' role='img'><style>{_STYLE}</style>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )


def _x(update: float, last: int) -> float:
    return _LEFT + update / last * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(last: int) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        value = tick / _TICKS
        ends = f"x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{_y(value):.1f}' y2='{_y(value):.1f}'"
        parts.append(f"<line {ends} stroke='#d0d7de'/>")
        parts.append(_text(_LEFT - 30, _y(value) + 4, f"{value:.1f}"))
    every = 1 + last // 20
    parts += [_text(_x(n, last) - 4, _y(0) + 18, str(n)) for n in range(0, last + 1, every)]
    parts.append(_text(_WIDTH - 70, _y(0) + 36, "update"))
    return parts


def _line(points: Sequence[tuple[int, float]], colour: str, width: float, last: int) -> str:
    placed = " ".join(f"{_x(update, last):.1f},{_y(value):.1f}" for update, value in points)
    return f"<polyline points='{placed}' fill='none' stroke='{colour}' stroke-width='{width:g}'/>"


def _text(x: float, y: float, said: str, colour: str = "#24292f") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' style='fill:{colour}'>{escape(said)}</text>"
