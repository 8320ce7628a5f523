"""How far a plan multiplies rounding errors, and the note that says so.

A solver step is x ← a·x + Σ_k w_k·D_k. A rounding error of the network's output, 6e-8 of its size in float32, reaches
the state times w_k. Σ|w_k| is about 1 where the levels of a step lie close together. It is large in a long step of a
solver that divides by the level it lands on: Heun from 80 to 0.002 has w = 80/(2·0.002) = 20,000 on each D, of opposite
signs. That is the solver's own arithmetic: the fused row loses what a plain float32 loop loses, and float64 registers
lose nothing.

Limiting case: Euler has Σ|w_k| = 1 − s/t ≤ 1, whatever the levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from .trajectory import Step

MUCH = 1000.0  # from here on float32 keeps fewer than about four digits
EPSILON = 2.0**-24


def amplification(step: Step) -> float:
    """Return the largest Σ|w_k| of a step's result and stages, relative to the level it lands on if that is above 1.

    What earlier steps kept counts as D does: a multistep solver whose steps differ a thousandfold has large weights.
    """
    forms = (step.result, *(stage.z for stage in step.stages))
    return max(sum(abs(w) for w in (*form.D, *form.history)) for form in forms) / max(1.0, step.s)


def note(steps: Sequence[Step]) -> str:
    """Return a note on the worst step, or "" for a plan that loses fewer digits than MUCH allows."""
    worst = max(steps, key=amplification)
    factor = amplification(worst)
    if factor < MUCH:
        return ""
    return (
        f"the step from sigma {worst.t:.5g} to {worst.s:.5g} multiplies rounding errors of the network by "
        f"{factor:,.0f}: float32 samples are off by about {factor * EPSILON:.1g} or more, in a plain loop too; use "
        "more points or solver euler"
    )
