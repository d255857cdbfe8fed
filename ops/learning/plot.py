"""The learning curve as a picture: SVG, alone or in a page, with nothing to fetch."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

import msgspec

from ops.learning.lessons import Lesson, Ordered

__all__ = ["page", "picture"]

_WIDTH, _HEIGHT = 860.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 20.0, 48.0, 96.0
_TICKS: Final = 5
_MOST_LABELS: Final = 20
_REWARD, _SCORE, _BEST, _HOLDOUT = "#1f6feb", "#1a7f37", "#8c959f", "#8250df"
_HELD_BACK: Final = "#cf222e"
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}"
    ".grid{stroke:#d0d7de;stroke-width:1}.axis{stroke:#57606a;stroke-width:1}"
)


class _Series(msgspec.Struct, frozen=True):
    """A line: its name, its colour, and how a batch's value is read."""

    name: str
    colour: str
    value: Callable[[Lesson], float | None]
    dashed: bool = False


_SERIES: Final = (
    _Series("mean reward of the batch", _REWARD, lambda lesson: lesson.reward),
    _Series("new version on anchors", _SCORE, lambda lesson: lesson.score),
    _Series("best version on anchors", _BEST, lambda lesson: lesson.best, dashed=True),
    _Series("new version on the holdout", _HOLDOUT, lambda lesson: lesson.on_holdout),
)


def page(run: str, lessons: Sequence[Lesson], orders: Sequence[Ordered] = ()) -> str:
    """Return an HTML page with the picture and its numbers."""
    names = (
        "batch", "answered by", "new version", "decision", "reward", "on anchors", "best",
        "on holdout",
    )  # fmt: skip
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(lesson))}</tr>"
        for lesson in lessons
    )
    return (
        f"<!doctype html><meta charset='utf-8'><title>{escape(run)}</title>"
        "<style>body{font:14px system-ui,sans-serif;margin:2rem}"
        "td,th{padding:.2rem .8rem;text-align:left}</style>"
        f"{picture(run, lessons, orders)}"
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table>\n"
    )


def picture(run: str, lessons: Sequence[Lesson], orders: Sequence[Ordered] = ()) -> str:
    """Return the curve as SVG: rewards by batch, and below each batch what became of its version.

    Rewards are between 0 and 1, and so is the axis.
    """
    place = _Places(lessons)
    known = [one for one in _SERIES if any(one.value(lesson) is not None for lesson in lessons)]
    parts = [
        _text(_LEFT, 20, f"{run}: reward by batch", weight="600"),
        *_grid(place),
        *(_line(series, lessons, place) for series in known),
        *_legend(known),
        *_decisions(lessons, place),
        *_orders(orders, place),
    ]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH:g} {_HEIGHT:g}' "
        f"width='{_WIDTH:g}' role='img'><style>{_STYLE}</style>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )


class _Places:
    """Where a batch and a reward lie in the picture."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.numbers = [lesson.number for lesson in lessons]
        self._first = self.numbers[0] if lessons else 0
        self._span = max(1, (self.numbers[-1] if lessons else 0) - self._first)

    def x(self, number: float) -> float:
        """A batch from the left."""
        return _LEFT + (number - self._first) / self._span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """A reward from the top; what is outside [0, 1] lies on the edge."""
        return _TOP + (1 - min(1.0, max(0.0, value))) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(place: _Places) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        value = tick / _TICKS
        y = place.y(value)
        parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        parts.append(_text(_LEFT - 8, y + 4, f"{value:.1f}", anchor="end"))
    every = 1 + len(place.numbers) // _MOST_LABELS
    parts += [
        _text(place.x(number), place.y(0) + 18, str(number), anchor="middle")
        for number in place.numbers[::every]
    ]
    parts.append(_text(_WIDTH - _RIGHT, place.y(0) + 34, "batch", anchor="end"))
    parts.append(_rule(_LEFT, place.y(0), _WIDTH - _RIGHT, place.y(0), "axis"))
    return parts


def _line(series: _Series, lessons: Sequence[Lesson], place: _Places) -> str:
    known = [
        (place.x(lesson.number), place.y(value))
        for lesson in lessons
        if (value := series.value(lesson)) is not None
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    dash = " stroke-dasharray='5 4'" if series.dashed else ""
    line = (
        f"<polyline points='{points}' fill='none' stroke='{series.colour}' stroke-width='2'{dash}/>"
    )
    return line + "".join(_dot(x, y, series.colour) for x, y in known)


def _legend(known: Sequence[_Series]) -> list[str]:
    parts = []
    for index, series in enumerate(known):
        x = _LEFT + index * 200
        parts.append(_dot(x + 4, 34, series.colour))
        parts.append(_text(x + 14, 38, series.name))
    return parts


def _decisions(lessons: Sequence[Lesson], place: _Places) -> list[str]:
    """A mark for each batch's version: full when it was promoted, hollow when it was not."""
    parts = [_text(_LEFT, _HEIGHT - 14, "versions: full promoted, hollow held back")]
    for lesson in lessons:
        if lesson.candidate is None:
            continue
        promoted = lesson.training == "promoted"
        colour = _SCORE if promoted else _HELD_BACK
        mark = _dot(place.x(lesson.number), _HEIGHT - 40, colour, hollow=not promoted)
        said = ": ".join(filter(None, (lesson.candidate, lesson.training, *lesson.reasons)))
        parts.append(f"<g><title>{escape(said)}</title>{mark}</g>")
    return parts


def _orders(orders: Sequence[Ordered], place: _Places) -> list[str]:
    parts = []
    for order in orders:
        x = max(_LEFT, place.x(order.after - 0.5))
        said = f"{order.by}: {order.previous} to {order.policy}. {order.reason}"
        line = _rule(x, _TOP, x, _HEIGHT - _BOTTOM, "axis")
        parts.append(f"<g><title>{escape(said)}</title>{line}</g>")
    return parts


def _cells(lesson: Lesson) -> list[str]:
    numbers = (lesson.reward, lesson.score, lesson.best, lesson.on_holdout)
    words = (str(lesson.number), lesson.policy, lesson.candidate or "", lesson.training or "")
    return [*words, *("" if value is None else f"{value:.3f}" for value in numbers)]


def _dot(x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    fill = "none" if hollow else colour
    place = f"cx='{x:.1f}' cy='{y:.1f}' r='4'"
    return f"<circle {place} fill='{fill}' stroke='{colour}' stroke-width='1.5'/>"


def _rule(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    return f"<line x1='{x:.1f}' y1='{y:.1f}' x2='{to_x:.1f}' y2='{to_y:.1f}' class='{kind}'/>"


def _text(x: float, y: float, said: str, *, anchor: str = "start", weight: str = "400") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-weight='{weight}'>"
        f"{escape(said)}</text>"
    )
