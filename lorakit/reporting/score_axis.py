"""The range of an axis of scores: wide enough that what chance does to a few rows does not look like a climb."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_SPAN = 0.1
"""Of an axis of shares and correlations, whatever the rows: ten points."""
Z = 1.96  # of a 95 % interval
AIR = 0.05  # of the span, above and below


def score_limits(values: Sequence[float], rows: int | None = None) -> tuple[float, float] | None:
    """The lower and upper end for scores between -1 and 1; None where there are none, or others among them, such as an error.

    The axis spans the scores, and at least ``LEAST_SPAN`` and the normal 95 % interval of a share of a half of ``rows``, 2 Z / sqrt(4 n):
    of 30 rows that is 36 points, so that two more right ones are a fifth of the axis. It ends at 1, and at 0 where no score is below.
    """
    if not values or min(values) < -1 or max(values) > 1:
        return None
    low, high = min(values), max(values)
    least = max(LEAST_SPAN, Z / math.sqrt(rows) if rows else 0.0)
    span = max(high - low, least) * (1 + 2 * AIR)
    bottom = -1.0 if low < 0 else 0.0
    span = min(span, 1.0 - bottom)
    lower = min(max((low + high - span) / 2, bottom), 1.0 - span)
    return lower, lower + span
