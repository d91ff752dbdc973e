"""Numbers as people read them. Pure."""

from warpfleet.telemetry.statistics import Proportion

NOTHING = "-"


def time_text(value_ms: float | None) -> str:
    """A time with its unit, in ms below a second."""
    if value_ms is None:
        return NOTHING
    return f"{value_ms:.0f} ms" if value_ms < 999.5 else f"{value_ms / 1000:.1f} s"


def percent_text(share: float | None) -> str:
    """A share of 0 to 1 in whole percents; 0 % and 100 % are said only of what is exactly that."""
    if share is None:
        return NOTHING
    rounded = round(100 * share)
    if 0 < share < 1 and rounded in (0, 100):
        return "<1 %" if rounded == 0 else ">99 %"
    return f"{rounded} %"


def interval_text(one: Proportion) -> str:
    """The 95 % interval of a proportion, in percents with one decimal."""
    if one.low is None or one.high is None:
        return NOTHING
    return f"{100 * one.low:.1f} to {100 * one.high:.1f} %"


def count_text(value: int | None) -> str:
    """A count, its thousands apart."""
    return NOTHING if value is None else f"{value:,}"
