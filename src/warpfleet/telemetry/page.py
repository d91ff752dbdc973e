"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from warpfleet.core.combo import AttemptOutcome, Side
from warpfleet.telemetry.explain import attempt_why
from warpfleet.telemetry.facts import cost_facts, sweep_facts
from warpfleet.telemetry.figures import COLOURS, draw
from warpfleet.telemetry.findings import NOT_OBSERVED, Findings, nat_order
from warpfleet.telemetry.lookup import Story
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.records import AttemptRow
from warpfleet.telemetry.statistics import supports
from warpfleet.telemetry.units import NOTHING, count_text, interval_text, percent_text, time_text

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True, slots=True)
class Bar:
    """An attempt as a bar of a time line; `left` and `width` are percents of the time line."""

    attempt: AttemptRow
    node: str
    left: float
    width: float
    times: str
    why: str


def page(found: Findings) -> str:
    """The whole page. What is shown of the tables is escaped."""
    plots = draw(found, ("connect-time", "first-byte-time"))
    return _template().render(
        found=found,
        facts=sweep_facts(found.sweep),
        costs=cost_facts(found.cost, sum(found.outcomes.values())),
        nats=nat_order(found.nat_pairs),
        by_nats={(pair.initiator_nat, pair.responder_nat): pair for pair in found.nat_pairs},
        plots={name: _inline(svg) for name, svg in plots.items()},
        slowest=[(one.connection, time_line(one)) for one in found.slowest],
        colours=COLOURS,
    )


def time_line(story: Story) -> Sequence[Bar]:
    """The attempts that ran, in the order of their start, on a line from the connection's start to the last end."""
    ran = [one for one in story.attempts if one.outcome is not AttemptOutcome.SKIPPED and one.started_ms is not None]
    ends = [value for one in ran for value in (one.started_ms, one.ended_ms) if value is not None]
    whole_ms = max([*ends, story.connection.connect_ms or 0.0])
    return [_bar(one, story, whole_ms) for one in ran]


def _bar(attempt: AttemptRow, story: Story, whole_ms: float) -> Bar:
    start_ms = attempt.started_ms or 0.0
    end_ms = whole_ms if attempt.ended_ms is None else attempt.ended_ms
    node = story.connection.initiator if attempt.side is Side.INITIATOR else story.connection.responder
    left, right = (min(max(100 * value / (whole_ms or 1), 0), 100) for value in (start_ms, end_ms))
    times = f"{start_ms:,.0f} to {'?' if attempt.ended_ms is None else f'{end_ms:,.0f}'} ms"
    return Bar(attempt, node, left, right - left, times, attempt_why(attempt))


def _inline(svg: str) -> Markup:
    """A plot as an element of the page, in colours that the page names: they follow its light or dark ground."""
    element = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg[svg.index("<svg") :])
    for name, colour in COLOURS.items():
        element = element.replace(colour, f"var(--{name})")
    return Markup(element)  # noqa: S704 - matplotlib has escaped what is not its own


def _breakable(name: str) -> Markup:
    """A name that a narrow column breaks after its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "count": count_text,
        "interval": interval_text,
        "percent": percent_text,
        "sentence": sentence,
        "time": time_text,
    }
    environment.globals |= {"NOTHING": NOTHING, "NOT_OBSERVED": NOT_OBSERVED, "supports": supports}
    return environment.get_template(_TEMPLATE)
