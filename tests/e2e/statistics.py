"""Whether counts are what a split says, by a test and not by a tolerance."""

import math
from collections.abc import Mapping

P_MIN = 1e-6
"""A right split fails a test once in a million runs."""


def follows(counts: Mapping[str, int], weights: Mapping[str, int]) -> bool:
    """Return whether *counts* of two sides can come from *weights* (chi-square)."""
    assert len(weights) == 2
    assert set(counts) <= set(weights)
    total, whole = sum(counts.values()), sum(weights.values())
    chi_square = 0.0
    for side, weight in weights.items():
        expected = total * weight / whole
        assert expected > 0
        chi_square += (counts.get(side, 0) - expected) ** 2 / expected
    return math.erfc(math.sqrt(chi_square / 2)) > P_MIN
