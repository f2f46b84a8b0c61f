"""A bar chart as SVG, readable on light and on dark pages."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from benchmarks.figures import Spread

WIDTH = 900
LABELS = 380
VALUES = 110
ROW = 24
BAR = 14
TOP = 64
MARGIN = 16

STYLE = """
    .page { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif } .small { font-size: 12px }
    .title { font-size: 16px; font-weight: 600 } .grid { stroke: #d1d9e0 } .whisker { stroke: #1f2328 }
    .other { fill: #9aa4ae } .powauth { fill: #0969da } .floor { fill: #59636e }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } text { fill: #f0f6fc } .grid { stroke: #3d444d } .whisker { stroke: #f0f6fc }
      .other { fill: #656c76 } .powauth { fill: #4493f8 } .floor { fill: #9198a1 }
    }
"""


class Bar(NamedTuple):
    """One row: its label, its colour (``powauth``, ``floor`` or ``other``), and its value."""

    label: str
    kind: str
    value: Spread


def chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Draw the bars from the shortest to the longest, on a logarithmic axis, with a line from quartile to quartile.

    Noise can turn a very small cost into zero or less. Such a value is drawn at the start of the axis.
    """
    bars = sorted(bars, key=lambda bar: bar.value.median)
    positive = [each for bar in bars for each in bar.value if each > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    last = max(last, first + 1)
    room = WIDTH - LABELS - VALUES - MARGIN
    bottom = TOP + ROW * len(bars)

    def x(value: float) -> float:
        exponent = math.log10(value) if value > 0 else first
        return round(LABELS + room * (max(exponent, first) - first) / (last - first), 1)

    height = bottom + 34
    name = escape(title, quote=True)
    below = f"{escape(unit)}; the axis is logarithmic, lines show quartiles"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" width="{WIDTH}" height="{height}"/>',
        f'  <text class="title" x="{MARGIN}" y="28">{escape(title)}</text>',
        f'  <text class="small" x="{MARGIN}" y="48">{below}</text>',
    ]
    for exponent in range(first, last + 1):
        place = x(10**exponent)
        parts.append(f'  <line class="grid" x1="{place}" y1="{TOP - 6}" x2="{place}" y2="{bottom}"/>')
        parts.append(
            f'  <text class="small" x="{place}" y="{bottom + 18}" text-anchor="middle">{10.0**exponent:g}</text>'
        )
    for number, bar in enumerate(bars):
        top = TOP + ROW * number
        middle = top + ROW / 2
        end = x(bar.value.median)
        width = max(round(end - LABELS, 1), 1)
        parts += [
            f'  <text x="{LABELS - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
            f'  <rect class="{bar.kind}" x="{LABELS}" y="{top + (ROW - BAR) / 2}" width="{width}" height="{BAR}"/>',
            f'  <line class="whisker" x1="{x(bar.value.low)}" y1="{middle}" x2="{x(bar.value.high)}" y2="{middle}"/>',
            f'  <text x="{max(end, x(bar.value.high)) + 8}" y="{middle + 4}">{_number(bar.value.median)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _number(value: float) -> str:
    """Format a number with about three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
