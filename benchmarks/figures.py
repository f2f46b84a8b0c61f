"""Figures from samples: medians, their spread, and ratios of values that were measured side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import NamedTuple

from benchmarks.subject import Counts, Sample

NO_COUNTS = Counts()


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """``1.23 (1.20 - 1.27)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} - {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles. A single value is all three."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


@dataclass(frozen=True)
class Measured:
    """One contender's rounds, in the order of the rounds, in scaled microseconds.

    Attributes:
        added: the cost that the layer adds to a request, for each round.
        bare: the cost of a request to the app without the layer.
        layered: the cost of a request to the app with the layer.
    """

    added: Sequence[float]
    bare: Sequence[float]
    layered: Sequence[float]
    counts: Counts = NO_COUNTS


def normal_yard(samples: Sequence[Sample]) -> float:
    """Return the seconds that the yardstick takes in this run: its median over all contenders and rounds."""
    return median(yard for sample in samples for yard in sample.yards)


def scaled(samples: Sequence[Sample], yard: float, counts: Counts = NO_COUNTS) -> Measured:
    """Scale the samples as if the yardstick had taken ``yard`` seconds beside each of their blocks."""
    layered, bare = [], []
    for sample in samples:
        before, between, after = sample.yards
        first, second = yard * 2 / (before + between) * 1e6, yard * 2 / (between + after) * 1e6
        layered.append(sample.layered * (first if sample.layered_first else second))
        bare.append(sample.bare * (second if sample.layered_first else first))
    added = [with_layer - without for with_layer, without in zip(layered, bare, strict=True)]
    return Measured(added, bare, layered, counts)


def ratio(one: Measured, other: Measured) -> Spread:
    """Return the ratio of two contenders' added costs, with its spread over rounds that ran side by side.

    The median is the ratio of the medians, so a single bad round of the smaller one cannot change it.
    """
    low, high = _quartiles([a / b for a, b in zip(one.added, other.added, strict=True) if b > 0])
    middle = median(one.added) / median(other.added)
    return Spread(middle, min(low, middle), max(high, middle))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    found = spread(values)
    return found.low, found.high
