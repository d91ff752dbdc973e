"""What a sample of a given size can say. Pure."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Proportion:
    """`count` of `n`. `share`, and the ends of its 95 % Wilson interval, are 0 to 1; None where n is 0."""

    count: int
    n: int
    share: float | None
    low: float | None
    high: float | None


def proportion(count: int, n: int) -> Proportion:
    """`count` of `n`, 0 <= count <= n, with its interval."""
    if n == 0:
        return Proportion(count, n, None, None, None)
    return Proportion(count, n, count / n, *wilson(count, n))


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, 0 <= count <= n, n > 0.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212. Unlike the
    normal approximation it stays within 0 and 1, and does not shrink to a point where all or none of few succeeded.
    """
    share, weight = count / n, _Z**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def supports(n: int, quantile: float) -> bool:
    """Whether n values say anything of a quantile, 0 < quantile < 1.

    They do where it lies between the least and the greatest of them with 95 % confidence, whatever the distribution
    (Conover, "Practical Nonparametric Statistics", section 3.2): a median needs 6 values, a 95th percentile 59.
    """
    return 1 - quantile**n - (1 - quantile) ** n >= CONFIDENCE
