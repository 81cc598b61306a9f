"""Items that belong together: by how much they count for less than as many independent ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from compress.validate.score_test import ALPHA, Z

WEIGHT = 0.16
"""Flips of the imagined cluster, as a share of the flips that a difference of the size of the margin would bring."""
FEWEST = 0.5
"""Fewest flips of the imagined cluster; the most are as many as a cluster of average size has items."""


@dataclass(frozen=True)
class Clustering:
    """What ``values`` in clusters show of their dependence.

    The design effect is the ratio of the cluster-robust to the independent variance of the mean, with the flips of an
    imagined cluster that moves as a block added to both: without flips nothing can be learned about dependence, and
    a cluster counts as one unit; with many flips the data speak. How many flips are imagined was fitted to hold
    type I error below 0.06 at any intra-cluster correlation (benchmarks/decide/clusters.py, docs/gate.md).

    The robust variance is the bias-reduced one (CR2: Bell & McCaffrey 2002, Survey Methodology 28:169), widened by
    the t quantile for few or unequal clusters. Of a single cluster nothing is known: it is one unit.
    """

    n: int
    count: int
    """Clusters."""
    typical: float
    """Mean size of the cluster that an item is in."""
    robust: float
    """Sum of squared sums per cluster, centred, each over the share of the items that are not in it."""
    independent: float
    """Sum of squares, centred."""

    @classmethod
    def of(cls, values: ArrayLike, clusters: ArrayLike) -> Clustering:
        found = np.asarray(values, np.float64)
        _, place, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
        n, count, apart = len(found), len(sizes), found - found.mean()
        typical, independent = float((sizes.astype(np.float64) ** 2).sum()) / n, float(apart @ apart)
        if count == 1:
            return cls(n, count, typical, n * independent, independent)
        totals = np.bincount(place.ravel(), apart, count)
        return cls(n, count, typical, float((totals**2 / (1 - sizes / n)).sum()), independent)

    def effect(self, margin: float, scale: float = 1.0) -> float:
        """The design effect for a test at ``margin``, if there were ``scale`` times as many clusters of this kind.

        1 without clusters, and never below; never so large that less than one unit is left.
        """
        if self.count == self.n:
            return 1.0
        n = self.n * scale
        flips, robust = imagined(n, self.typical, margin), self.robust * scale * widened(n / self.typical)
        return min(max((robust + flips * self.typical) / (self.independent * scale + flips), 1.0), n)


def widened(clusters: float) -> float:
    """By how much a variance from so many clusters of equal size must grow, for the normal curve to hold."""
    from scipy.special import stdtrit

    return float(stdtrit(max(clusters - 1, 0.5), 1 - ALPHA) / Z) ** 2


def imagined(n: float, typical: float, margin: float) -> float:
    """Flips of the imagined cluster."""
    return min(max(WEIGHT * margin * n, FEWEST), typical)


def design_effect(values: ArrayLike, clusters: ArrayLike, margin: float = 0.02) -> float:
    """By how much clustering inflates the variance of the mean of ``values`` in a test at ``margin``."""
    return Clustering.of(values, clusters).effect(margin)
