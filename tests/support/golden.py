"""Results of other libraries' samplers, run in float64 on the problem of support/sheet.py, and the draws they took.

The libraries are k-diffusion (4601bf0), ComfyUI (a125cd8), diffusers (0.42.1) and diff-sampler (68d5ce4). Each entry is
a solver as `--solver` takes it, and what else the run needs, with the result in ve and in a flow; None: not run there.
"""

from __future__ import annotations

from typing import NamedTuple

from .sheet import DRAWS

VE = (10.0, 4.0, 1.6, 0.7, 0.3, 0.1, 0.0)
FLOW = (0.98, 0.85, 0.65, 0.45, 0.25, 0.1, 0.0)
STARTS = {"ve": 9.0, "flow": 0.9}
LEVELS = {"ve": VE, "flow": FLOW}


class Golden(NamedTuple):
    """A result. `stop`: the run ends at 0.1. `draws`: those it takes. `within`: the reference's own rounding."""

    solver: str
    ve: float | None = None
    flow: float | None = None
    eta: float = 1.0
    stop: bool = False
    draws: tuple[float, ...] = DRAWS
    within: float = 2e-10


GOLDEN = (
    Golden("euler", 0.6861033759, 0.6888667974),
    Golden("heun", 0.7900130828, 0.7610633065),
    Golden("dpm2", 0.7653379570, 0.7633898734),
    Golden("heunpp2", 0.6978555068, 0.7235452388),
    Golden("euler-ancestral", 0.5971870104, 0.6061414334),
    Golden("euler-ancestral", 0.6793700397, eta=0.5),
    Golden("ddpm", 0.5971870104),
    Golden("dpm2-ancestral", 0.7737380344, 0.7575213152),
    Golden("dpm++2s-ancestral", 0.6465955339, 0.6714477238),
    Golden("dpm++sde", 0.5916827934, 0.5936150570),
    Golden("dpm++sde:r=0.4", 0.7469640315, eta=0.5),
    Golden("seeds2", 0.6898365855, 0.6736887030),
    Golden("seeds3", 0.6559834845, 0.6423921001),
    Golden("exp-heun", 0.7302760719, 0.7363664617),
    Golden("exp-heun:sde=true", 0.3834688603, draws=DRAWS[::2]),
    Golden("dpm++2m", 0.7593279162, 0.7631218454),
    Golden("dpm++2m-sde:variant=heun", 0.7724846743, 0.7766972430, eta=0.0),
    Golden("dpm++2m-sde", 0.8130057591, 0.8040820578),
    Golden("dpm++2m-sde:variant=heun", 0.8948523155),
    Golden("dpm++3m-sde:variant=k-diffusion", 1.0814255503, 1.0564541285),
    Golden("dpm++3m:variant=k-diffusion", 0.7445755204),
    Golden("dpm++3m", 0.7352434715),
    Golden("dpm-solver:lower_final=true", 0.7436373731, stop=True),
    Golden("dpm-solver:lower_final=true,order=3,variant=diffusers", 0.7457000127, stop=True),
    Golden("dpm-solver:lower_final=true,sde=true", -0.1044756099, stop=True),
    Golden("lms:to_zero=k-diffusion", 0.7224309748),
    Golden("lms", 0.7138403618, 0.7312049021),
    Golden("ipndm:order=2", 0.7312277536),
    Golden("ipndm:order=3", 0.7347573395),
    Golden("ipndm", 0.7233442805, 0.7237657726),
    Golden("ipndm", 0.7430793654, stop=True),
    Golden("deis", 0.7280070325),
    Golden("deis:lower_final=true,order=2,variant=log-rho", 0.7383933378, stop=True),
    Golden("deis:lower_final=true,variant=log-rho", 0.7425814443, 0.6721533834, stop=True),
    Golden("res-multistep", 0.7724846743, 0.8208978222),
    Golden("gradient-estimation", 0.7569550586, 0.7823327782),
    Golden("unipc:order=1", 0.7107842639),
    Golden("unipc:order=2", 0.7623464851, 0.7696055031),
    Golden("unipc", 0.7721057789, 0.7825270194),
    Golden("unipc:variant=bh1", 0.7922326212),
    Golden("sa-solver:tau_min=0.25,tau_max=5", 0.6830101154),
    Golden("sa-solver:tau_min=0.2,tau_max=0.8", None, 0.4469751698),
    Golden("sa-solver:pece=true,tau_min=0.25,tau_max=5", 0.7870577973),
    Golden("sa-solver:pece=true,tau_min=0.2,tau_max=0.8", None, 0.4404452720),
    Golden("sa-solver:predictor=2,corrector=2,simple=true", 0.6855458501, 0.6088334104, stop=True),
    Golden("er-sde:variant=published", 0.7020016806, 0.6322802408, within=1e-8),
    Golden("lcm", 0.6218178652, 0.6210699168),
)
