"""From half squared distances to t distributions, and from responsibilities to what moments take.

Their programs (`Design.tails`) have constants of zero, so that `estep` leaves −½δ² where
log-densities go. With a = 1 + δ²/ν a log-density is the component's height less (ν + D)/2 · log a,
and the expected scale of a row is u = (ν + D)/ν · 1/a; one division serves both 1/a and log a.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_gmm.mixture.kernels.compiled.elementary import inverse_and_log

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Member
    from dask_gmm.mixture.kernels.compiled.vector import Code, Value

__all__ = ["add_tails", "scale_shares"]

_LARGEST = 1e300
"""Half squared distances above are not told from infinity."""


def add_tails(code: Code, design: Design, member: Member, end: Value) -> None:
    """Turn −½δ² in `joint` into log-densities; keep 1/a and log a of each row and component.

    A distance that is no number, or none that float64 can hold, has a log-density of −∞.
    """
    lanes = design.lanes
    zero, one = code.constant(lanes, 0.0), code.constant(lanes, 1.0)
    lowest, limit = code.constant(lanes, -math.inf), code.constant(lanes, -_LARGEST)

    def component(k: Value) -> None:
        at = k * design.pitch
        joint, inverses, logarithms = (
            array.at(at) for array in (member.joint, member.inverses, member.logarithms)
        )
        stretch, power = member.stretches.spread(lanes, k), member.powers.spread(lanes, k)
        height = member.heights.spread(lanes, k)

        def rows(t: Value) -> None:
            half = joint.vector(lanes, t)
            near = code.greater(half, limit)
            half = code.select(near, half, zero)
            beyond = stretch * half
            a = beyond + one
            inverse, logarithm = inverse_and_log(code, lanes, a)
            # What the sum has lost of a small distance: of many degrees the power is large.
            logarithm = code.fma(lanes, beyond - (a - one), inverse, logarithm)
            density = code.fma(lanes, power, logarithm, height)
            joint.put(code.select(near, density, lowest), t)
            inverses.put(inverse, t)
            logarithms.put(logarithm, t)

        code.loop(end, rows, step=lanes.count)

    code.loop(member.n_components, component)


def scale_shares(code: Code, design: Design, member: Member, end: Value) -> None:
    """Turn w r in `joint` into w r u, and add up Σ w r u and Σ w r (log u − u)."""
    lanes = design.lanes

    def component(k: Value) -> None:
        at, own = k * design.pitch, k * lanes.count
        joint, inverses, logarithms = (
            array.at(at) for array in (member.joint, member.inverses, member.logarithms)
        )
        counts, logs = member.scaled_counts.at(own), member.log_scales.at(own)
        ratio, top = member.ratios.spread(lanes, k), member.tops.spread(lanes, k)

        def rows(t: Value, count: Value, log: Value) -> list[Value]:
            share = joint.vector(lanes, t)
            scaled = share * (ratio * inverses.vector(lanes, t))
            joint.put(scaled, t)
            log = code.fma(lanes, share, top - logarithms.vector(lanes, t), log - scaled)
            return [count + scaled, log]

        start = [counts.vector(lanes), logs.vector(lanes)]
        for array, total in zip(
            (counts, logs), code.loop(end, rows, step=lanes.count, carry=start), strict=True
        ):
            array.put(total)

    code.loop(member.n_components, component)
