"""Which service is at fault when requests changed: usual requests against those now, every service with its evidence.

Three things count: how much its spans deviate from what is usual for their operation (z), what that costs a request,
and what it breaks off. Deviation alone ranks a leaf that became 3 ms slower above the one that became 300 ms slower,
cost alone ranks what is always large, and neither sees code that fails fast.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.endpoint_reports import Suspect
from analysis.node import Node
from analysis.suspect_structure import breaks, structure_of
from analysis.suspect_times import Change, changes, times_of

_CLEAR_Z = 3.0
"""Three standard deviations: below it the largest deviation is no full measure of the others."""
_CLEAR_COST_SHARE = 0.2
"""Likewise a fifth of the usual request."""
_BREAK_WEIGHT = 2.0
"""A service that breaks off all of its requests weighs as much as one that leads in deviation and in cost."""


def suspects(usual: Sequence[Node], now: Sequence[Node]) -> tuple[Suspect, ...]:
    """The services of the requests now (roots of their trees), most suspect first."""
    usual_times, now_times = times_of(usual), times_of(now)
    changed = changes(usual_times, now_times)
    broken = breaks(structure_of(usual), structure_of(now))
    usual_ns = usual_times.total_ns / max(usual_times.requests, 1)
    most_z = max(_CLEAR_Z, max((one.z for one in changed.values()), default=0.0))
    most_cost_ns = max(_CLEAR_COST_SHARE * usual_ns, max((one.cost_ns for one in changed.values()), default=0.0), 1.0)
    found = []
    for service, of in broken.items():
        change = changed.get(service, Change(0.0, 0.0))
        score = max(0.0, change.z) / most_z + max(0.0, change.cost_ns) / most_cost_ns
        score += _BREAK_WEIGHT * min(1.0, of.stops + of.fails)
        found.append(Suspect(service, change.z, change.cost_ns, of.stops, of.fails, score))
    return tuple(sorted(found, key=lambda one: (-one.score, one.service)))
