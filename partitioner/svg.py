"""The elements of an SVG drawing, as text; colours come from the page's style by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def drawing(width: float, height: float, title: str, elements: Sequence[str], css: str) -> str:
    """A whole drawing.

    Args:
        width: Of its coordinates, in CSS pixels.
        height: Likewise.
        title: What it shows, for those who do not see it.
        elements: What is in it.
        css: A class of the drawing.

    Returns:
        An ``svg`` element.
    """
    return (
        f'<svg class="chart {css}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="max-width:{width * 1.25:g}px" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(elements)}</svg>"
    )


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text; ``anchor`` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def rectangle(
    x: float, y: float, width: float, height: float, css: str, title: str = "", radius: float = 0
) -> str:
    """A rectangle; ``title`` shows where the pointer rests on it."""
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{height:.2f}" '
        f'rx="{radius:g}" class="{css}">{_title(title)}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" class="{css}"/>'


def path(points: Sequence[tuple[float, float]], css: str) -> str:
    """Points joined by straight lines."""
    joined = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polyline points="{joined}" class="{css}"/>'


def circle(x: float, y: float, radius: float, css: str, title: str = "") -> str:
    """A dot; ``title`` shows where the pointer rests on it."""
    return (
        f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:g}" class="{css}">{_title(title)}</circle>'
    )


def diamond(x: float, y: float, radius: float, css: str, title: str = "") -> str:
    """A square on its corner."""
    corners = f"{x:.2f},{y - radius:.2f} {x + radius:.2f},{y:.2f} {x:.2f},{y + radius:.2f} " + (
        f"{x - radius:.2f},{y:.2f}"
    )
    return f'<polygon points="{corners}" class="{css}">{_title(title)}</polygon>'


def _title(content: str) -> str:
    return f"<title>{escape(content)}</title>" if content else ""


def text_width(content: str, size: float = 12) -> float:
    """About how wide a text is, in a sans-serif face; on the safe side."""
    return len(content) * size * 0.56


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover an interval.

    Args:
        low: Its lower end.
        high: Its upper end, above ``low``.
        about: How many are wanted.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten, between the ends.
    """
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive ends; powers alone if many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in fine if low * 0.999 <= tick <= high * 1.001]
    if len(inside) <= 7:
        return inside
    return [10.0**power for power in powers if low * 0.999 <= 10.0**power <= high * 1.001]
