r"""SA-Solver, a stochastic Adams predictor and corrector (arXiv 2309.05019, Algorithm 1).

With η = τ², the SDE of integrals.py is integrated with D a polynomial in λ through its last `predictor` values; when D
at the new level is known, again through `corrector` values with that one, and the same noise. As in unipc.py a step
corrects the state that it begins with. `pece` evaluates the corrected state once more, at twice the cost. There is
noise in steps that arrive in [tau_min, tau_max] (or begin there, `tau_at`). `simple` takes the authors' weights of 2.
Limiting cases: η = 0 is the ODE's; a fresh history is the first-order SDE step; s = 0 is D.
"""

from __future__ import annotations

from .integrals import combined, leap
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one or two evaluations at t, the std of the noise, and D's for the next step."""
    o, history, process, D_0 = position.options, position.history, position.process, D(x, t)
    if history and o["corrector"]:
        predicted, eta = position.note
        n = min(position.lowered(o["corrector"]), len(history) + 1)
        if n > 1 or o["pece"]:
            w = _weights(process, position.levels[0], t, (t, *position.levels)[:n], eta, o["simple"])
            b = _weights(process, position.levels[0], t, position.levels[:predicted], eta, o["simple"])
            x = x + combined(w, (D_0, *history)[:n]) - combined(b, history[:predicted])
            D_0 = D(x, t) if o["pece"] else D_0
    if s == 0:
        return Update(D_0)
    n = min(position.lowered(o["predictor"], 1), len(history) + 1)
    eta = position.eta * (o["tau_min"] <= (s if o["tau_at"] == "arrival" else t) <= o["tau_max"])
    kept = (D_0, *history[: max(o["predictor"], o["corrector"] - 1) - 1])
    w, to_s = _weights(process, t, s, (t, *position.levels)[:n], eta, o["simple"]), leap(process, t, s, eta)
    return Update(to_s.x * x + combined(w, kept[:n]), to_s.std, keep=kept, note=(n, eta))


def _weights(process: str, t: float, s: float, levels: tuple[float, ...], eta: float, simple: bool) -> list[float]:
    to_s = leap(process, t, s, eta)
    return to_s.halved(to_s.c * to_s.h / 2, levels) if simple and len(levels) == 2 else to_s.weights(levels)


SOLVER = Solver(
    "sa-solver",
    step,
    order=3,
    title="SA-Solver",
    source="SA-Solver, arXiv 2309.05019, Algorithm 1",
    processes=("ve", "flow"),
    aliases=("sa_solver", "sa_solver_pece:pece=true", "SASolverScheduler:predictor=2,corrector=2,simple=true"),
    options=(
        Option("predictor", 3, "values of D that the predictor uses", (1, 2, 3)),
        Option("corrector", 4, "values of D that the corrector uses, 0 for none", (0, 1, 2, 3, 4)),
        Option("pece", False, "evaluate the corrected state again"),
        Option("simple", False, "the simplified weights of two values"),
        Option("tau_min", 0.0, "lowest level at which there is noise", low=0.0),
        Option("tau_max", float("inf"), "highest level at which there is noise", low=0.0),
        Option("tau_at", "arrival", "which end of a step decides", ("arrival", "start")),
    ),
    rank=18,
)
