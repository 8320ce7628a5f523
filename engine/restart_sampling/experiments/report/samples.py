r"""Images of the model itself: the same seeds by several samplers, and one Restart run laid out along its evaluations.

The run is one of the plain float64 loop (`measure.loops.restart_loop_fp64`) with a denoiser that records what it is
given, σ and x, and what it returns, D(x; σ). σ rises from one evaluation to the next only at a jump.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...common.images import grid, png_bytes, to_uint8
from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.noise import normal
from ..measure import loops
from .chart import empty
from .style import INK, colour, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SAMPLERS = ("heun", "heun+restart", "edm-stochastic", "dpm++2m")
BUDGETS = (18, 35)
SEEDS = range(24)
STRIP_SEEDS = range(3)
STRIP_PLAN: dict[str, Any] = {"steps": 18, "restart": [3, 2, 0.06, 0.30]}


@dataclass(frozen=True)
class Picture:
    """An image of the page: a data URI, its size in CSS pixels, a caption, and in words what it shows."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str


@dataclass(frozen=True)
class Visit:
    """One evaluation of a run: σ, the state x and the denoiser's output D, both [B, C, H, W]."""

    sigma: float
    x: Tensor
    D: Tensor


def data_uri(image: np.ndarray) -> str:
    """Return an image, uint8 [H, W, C], as a PNG in a data URI."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image, optimize=True)).decode()


def sample_grids(
    denoiser: Denoiser,
    candidates: Iterable[Any],
    budgets: Iterable[int] = BUDGETS,
    seeds: Sequence[int] = SEEDS,
    columns: int = 6,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Picture]:
    """Return a grid of images for each budget and candidate, all from the same seeds and so of the same classes.

    A candidate for which a budget is too small has no grid there. `progress` is told what is drawn next.
    """
    some = list(candidates)
    pictures = []
    for budget in budgets:
        for candidate in some:
            runner = candidate.runner(denoiser, budget, batch_size=len(seeds))
            if runner is None:
                continue
            progress(f"{candidate.title}, {runner.nfe} NFE")
            x, _ = runner.draw(list(seeds))
            sheet = grid(to_uint8(x), columns, scale=max(1, 84 // denoiser.shape[-1]))
            intervals = f", {_intervals(runner.plan)}" if runner.plan is not None and runner.plan.intervals else ""
            caption = f"{candidate.title}, {runner.nfe} NFE{intervals}"
            alt = f"{len(seeds)} images by {candidate.title} in {runner.nfe} network evaluations"
            pictures.append(Picture(data_uri(sheet), sheet.shape[1], sheet.shape[0], caption, alt))
    return pictures


def record(denoiser: Denoiser, plan: Plan, seeds: Sequence[int] = STRIP_SEEDS) -> tuple[list[Visit], Tensor]:
    """Run `plan` by the plain loop; return its evaluations and the samples, float64 [B, C, H, W].

    The run starts from the engine's initial latents. Levels beyond what the network knows are cut off, as everywhere.
    The class of a sample, if there are classes, is its seed modulo their number. Raises ValueError if the network is
    not preconditioned as EDM.
    """
    labels = torch.tensor([s % denoiser.label_dim for s in seeds]) if denoiser.label_dim else None
    inner = loops.edm_denoiser_of(denoiser, labels)
    visits: list[Visit] = []

    def recording(x: Tensor, sigma: Tensor) -> Tensor:
        D = inner(x, sigma)
        visits.append(Visit(float(sigma), x.clone(), D.clone()))
        return D

    noise = loops.SampleGenerators(seeds)
    plan = plan.for_network(denoiser.parameterization.sigma_min, denoiser.parameterization.sigma_max)
    levels = torch.tensor(plan.grid, dtype=torch.float64)
    latents = normal(seeds, 0, denoiser.shape)
    x = loops.restart_loop_fp64(recording, latents, levels, loops.intervals_of(plan), noise)
    return visits, x


def jumps(visits: Sequence[Visit]) -> list[int]:
    """Return the numbers of the evaluations before which the state jumped up, counted from 0."""
    return [k for k in range(1, len(visits)) if visits[k].sigma > visits[k - 1].sigma]


def columns(visits: Sequence[Visit]) -> list[int]:
    """Return the evaluations that get a column: the first of every step, and the one from which a jump starts."""
    firsts = {k for k in range(len(visits)) if k == 0 or visits[k].sigma >= visits[k - 1].sigma}
    return sorted(firsts | {k - 1 for k in jumps(visits)})


def strip(visits: Sequence[Visit], x: Tensor) -> Figure:
    """Draw σ step by step with an arrow up at every jump; under it x and D of each step, and last the samples x."""
    jumped, shown = set(jumps(visits)), columns(visits)
    samples = len(x)
    top, cell = 240, 44
    figure = empty(height=top + 2 * cell * samples)
    sigmas = [visits[k].sigma for k in shown]
    place: list[float | None] = []
    level: list[float | None] = []
    for n, k in enumerate(shown):
        if k in jumped:  # the line is broken here, and an arrow is in its place
            place.append(None)
            level.append(None)
            figure.add_annotation(
                x=n,
                y=float(np.log10(sigmas[n])),
                ax=n - 1,
                ay=float(np.log10(sigmas[n - 1])),
                xref="x",
                yref="y",
                axref="x",
                ayref="y",
                showarrow=True,
                arrowhead=2,
                arrowwidth=2.5,
                arrowsize=0.9,
                arrowcolor=colour("restart"),
                text="",
            )
        place.append(n)
        level.append(sigmas[n])
    figure.add_scatter(
        x=place,
        y=level,
        mode="lines+markers",
        line={"color": INK, "width": 1.3},
        marker={"size": 5, "color": INK},
        showlegend=False,
        hovertemplate="sigma %{y:.4g}<extra></extra>",
    )
    if jumped:
        n = next(n for n, k in enumerate(shown) if k in jumped)
        figure.add_annotation(
            x=n,
            y=float(np.log10(sigmas[n])),
            text="jump: fresh noise, up to t_max",
            showarrow=False,
            xanchor="left",
            xshift=4,
            yshift=14,
            font={"color": colour("restart"), "size": 12},
        )
    rows = 2 * samples
    for sample in range(samples):
        for n, k in enumerate(shown):
            visit = visits[k]
            scaled = visit.x[sample] / (1 + visit.sigma**2) ** 0.5
            _thumbnail(figure, scaled, n, rows - 1 - 2 * sample)
            _thumbnail(figure, visit.D[sample], n, rows - 2 - 2 * sample)
        _thumbnail(figure, x[sample], len(shown), rows - 1 - 2 * sample)
    names = [f"{kind}, image {n + 1}" for n in range(samples) for kind in ("x", "D")]
    split = 2 * cell * samples / (top + 2 * cell * samples)
    powers = [10.0**n for n in range(-4, 5) if min(sigmas) / 2 <= 10.0**n <= max(sigmas) * 2]
    still = {"fixedrange": True, "showgrid": False, "zeroline": False}
    figure.add_scatter(
        x=[0], y=[0], yaxis="y2", mode="markers", marker={"opacity": 0}, showlegend=False, hoverinfo="skip"
    )
    figure.update_layout(
        dragmode=False,
        xaxis=still
        | {
            "title_text": "sigma of the step",
            "range": [-0.6, len(shown) + 0.6],
            "anchor": "y2",
            "tickangle": -60,
            "tickvals": list(range(len(shown) + 1)),
            "ticktext": [f"{s:.2g}" for s in sigmas] + ["sample"],
            "tickfont": {"size": 11},
        },
        yaxis={
            "type": "log",
            "title_text": "sigma",
            "domain": [split + 0.03, 1],
            "fixedrange": True,
            "tickvals": powers,
            "ticktext": [f"{v:g}" for v in powers],
            "range": [np.log10(min(sigmas)) - 0.2, np.log10(max(sigmas)) + 0.3],
        },
        yaxis2=still
        | {
            "domain": [0, split],
            "range": [-0.55, rows - 0.45],
            "tickvals": list(range(rows)),
            "ticktext": names[::-1],
            "anchor": "x",
            "automargin": True,
            "ticks": "",
            "showline": False,
        },
    )
    return figure


def _thumbnail(figure: Figure, image: Tensor, column: int, row: int) -> None:
    """Draw an image, [C, H, W] in [−1, 1], at a column and row, enlarged so that no browser smooths it."""
    scale = max(1, 84 // image.shape[-1])
    pixels = to_uint8(image[None].float())[0].repeat(scale, axis=0).repeat(scale, axis=1)
    figure.add_layout_image(
        source=data_uri(pixels),
        xref="x",
        yref="y2",
        x=column,
        y=row,
        xanchor="center",
        yanchor="middle",
        sizex=0.94,
        sizey=0.94,
        sizing="contain",
        layer="above",
    )


def _intervals(plan: Plan) -> str:
    return " ".join(f"[{i.N}, {i.K}, {number(i.t_min)}, {number(i.t_max)}]" for i in plan.intervals)
