r"""The paper's synthetic experiment (arXiv 2306.14878, section 5.1 and appendix C.5), through the engine.

Data: 2,000 points of a 4-D mixture 0.3·N(a, I) + 0.7·N(−a, I), a = (3, 3, 3, 3), mapped to 20-D by a Gaussian matrix,
each coordinate scaled to variance 1. Denoiser: a four-layer MLP of width 64 with EDM preconditioning, trained by
denoising score matching. Sampler: first-order steps (Euler) on a fixed grid, and K Restart iterations in [t_min, t_max]
= [1.0, 1.5].

Errors, all W1 at t = 0 by minimum-weight matching of equal-size samples (appendix C.5):
    total       W1(p, data)   p: the sampler from pure noise
    contracted  W1(p, q)      q: the same sampler started from the true p_tmax at t_max; an exact solver would make it 0
    additional  W1(q, data)   what discretisation and the network add
with total ≤ contracted + additional. The paper prints no values, so what is checked is its finding: with K the
contracted error falls and the additional error grows.

    python benchmarks/synthetic_mixture.py       # about ten minutes on 2 cores; writes results/synthetic_mixture.*
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

import restart_sampling as rs
from restart_sampling.experiments.report import canvas
from restart_sampling.experiments.report.style import look
from restart_sampling.models import parameterization
from restart_sampling.plan.schedule import get_schedule

T_MIN, T_MAX = 1.0, 1.5
RESULTS = Path(__file__).parent / "results"


def make_data(n: int, seed: int) -> np.ndarray:
    """Return n points in R^20, float64 (section 5.1). The projection is the same for every seed.

    Exactly 30 % of the points are in the first mode: W1 between two samples would otherwise mostly measure the luck of
    the draw (one percent of the mass moved between the modes costs 0.08).
    """
    rng = np.random.default_rng(seed)
    sign = rng.permutation(np.where(np.arange(n) < 0.3 * n, 1.0, -1.0))
    S1 = sign[:, None] * 3.0 + rng.standard_normal((n, 4))
    P = np.random.default_rng(20230626).standard_normal((20, 4))
    # Exact variance of each coordinate of P·S1: the modes have weights 0.3, 0.7, so Var(sign) = 0.84.
    scale = np.sqrt((P**2).sum(axis=1) + 9 * 0.84 * P.sum(axis=1) ** 2)
    return S1 @ P.T / scale[:, None].T


def W1(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two equal-size point sets by minimum-weight matching."""
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


class MLP(nn.Module):
    """A network of four layers of width 64 on (c_in·x, c_noise)."""

    def __init__(self, dim: int = 20, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim + 1, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        flat = net_in.reshape(len(net_in), -1)
        return self.layers(torch.cat([flat, c_noise.reshape(-1, 1).expand(len(flat), 1)], dim=1)).view(net_in.shape)


def train(steps: int, seed: int = 0, batch: int = 1000) -> rs.Denoiser:
    """Return a denoiser trained with EDM's loss (arXiv 2206.00364, eq. 8), ln σ ~ N(−0.6, 1.4²), sigma_data = 1."""
    torch.manual_seed(seed)
    network = MLP()
    denoiser = rs.Denoiser(network, parameterization.edm(sigma_data=1.0), (20, 1, 1), name="synthetic MLP")
    data = torch.from_numpy(make_data(2000, seed=1)).float().view(-1, 20, 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = data[torch.randint(len(data), (batch,), generator=generator)]
        sigma = (torch.randn(batch, generator=generator, dtype=torch.float64) * 1.4 - 0.6).exp()
        noisy = x + sigma.float().view(-1, 1, 1, 1) * torch.randn(x.shape, generator=generator)
        weight = ((sigma**2 + 1) / sigma**2).float().view(-1, 1, 1, 1)
        loss = (weight * (denoiser(noisy, sigma) - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    return denoiser


def exact_denoiser(error: float = 0.0, n: int = 2000) -> rs.Denoiser:
    """Return E[x₀ | x] of the empirical data in closed form, plus a fixed smooth error of relative size `error`.

    The error is a rotation of the residual x − D. It stands for the score error of a network.
    """
    points = torch.from_numpy(make_data(n, seed=1)).float()
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(3)))[0]

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1)
        s2 = (sigma**2).view(-1, 1)
        D = torch.softmax(-(torch.cdist(flat, points) ** 2) / (2 * s2), dim=1) @ points
        return (D + error * (flat - D) @ rotation.T).view(x.shape)

    return rs.Denoiser.from_function(D, (20, 1, 1), name=f"exact mixture, error {error:g}")


@dataclass(frozen=True)
class Grid:
    """The main grid: `above` steps from 80 to t_max, `inside` steps from t_max to t_min, `below` steps on to 0."""

    above: int = 4
    inside: int = 2
    below: int = 12

    def sigmas(self, from_t_max: bool) -> tuple[float, ...]:
        """Return the levels, from t_max on or from 80 on."""
        upper = () if from_t_max else tuple(rs_karras(self.above + 1, T_MAX, 80.0)[:-1])
        middle = tuple(rs_karras(self.inside + 1, T_MIN, T_MAX)[:-1])
        return (*upper, *middle, *rs_karras(self.below, 0.002, T_MIN))


def rs_karras(n: int, low: float, high: float) -> np.ndarray:
    """Return n levels from `high` down to `low` of EDM's schedule."""
    return get_schedule("edm").segment(low, high, n)


def errors(denoiser: rs.Denoiser, grid: Grid, K: int, n: int, seed: int, **options: object) -> dict[str, float]:
    """Return the NFE and the total, contracted and additional error of one configuration."""
    restart = [[grid.inside + 1, K, T_MIN, T_MAX]] if K else None
    common: dict[str, object] = dict(solver="euler", restart=restart, **options)
    data = make_data(n, seed=1000 + seed)
    from_noise = rs.Plan.build(sigmas=grid.sigmas(False), **common)  # type: ignore[arg-type]
    from_t_max = rs.Plan.build(sigmas=grid.sigmas(True), **common)  # type: ignore[arg-type]

    def draw(plan: rs.Plan, first: int, latents: Tensor | None = None) -> np.ndarray:
        sampler = rs.Sampler(denoiser, plan, batch_size=n)
        x = sampler.run(range(first, first + n), latents=latents)
        return x.view(n, 20).double().numpy()

    base = 10_000_000 * seed
    p = draw(from_noise, base)
    true = torch.from_numpy(make_data(n, seed=2000 + seed)).float().view(n, 20, 1, 1)
    x_t_max = true / from_t_max.initial_noise + rs.noise.normal(
        range(base + 5_000_000, base + 5_000_000 + n), 0, (20, 1, 1)
    )
    q = draw(from_t_max, base + 5_000_000, x_t_max)
    return {"nfe": from_noise.nfe, "total": W1(p, data), "contracted": W1(p, q), "additional": W1(q, data)}


def floor(n: int, seed: int) -> float:
    """Return W1 of two fresh samples of the data, which a perfect sampler would have."""
    return W1(make_data(n, seed=1000 + seed), make_data(n, seed=2000 + seed))


def sweep(denoiser: rs.Denoiser, n: int, runs: int, Ks: list[int]) -> list[dict[str, object]]:
    """Return rows of Restart for each K, the ODE for several numbers of steps, and churn for several S_churn."""
    rows: list[dict[str, object]] = []

    def row(family: str, value: float, grid: Grid, K: int = 0, **options: object) -> None:
        for seed in range(runs):
            result = errors(denoiser, grid, K, n, seed, **options)
            rows.append({"family": family, "value": value, "seed": seed, "n": n, **result})
        last = rows[-runs:]
        mean = {k: float(np.mean([r[k] for r in last])) for k in ("total", "contracted", "additional")}  # type: ignore[misc]
        print(
            f"{family:<17} {value:>6g}  NFE {last[0]['nfe']:>4}  total {mean['total']:.3f}  "
            f"contracted {mean['contracted']:.3f}  additional {mean['additional']:.3f}",
            flush=True,
        )

    for K in Ks:
        row("restart", K, Grid(), K)
    for K in (1, 2, 4, 9):
        row("restart, grid × 2", K, Grid(8, 4, 24), K)
    for factor in (1, 2, 4, 8):
        row("ode", factor, Grid(4 * factor, 2 * factor, 12 * factor))
    for s_churn in (5.0, 10.0, 20.0, 40.0, 80.0):
        row("sde", s_churn, Grid(16, 8, 48), s_churn=s_churn)
    return rows


def plot(rows: list[dict[str, object]], path: Path, baseline: float) -> None:
    """Draw errors of Restart against K, and contracted against additional error for each family."""

    def mean(family: str, key: str) -> tuple[list[float], list[float]]:
        values = sorted({float(r["value"]) for r in rows if r["family"] == family})  # type: ignore[arg-type]
        means = [
            float(np.mean([r[key] for r in rows if r["family"] == family and r["value"] == v]))  # type: ignore[misc]
            for v in values
        ]
        return values, means

    restart = look("restart")
    with canvas.drawing():
        figure, (left, right) = canvas.figure(6.4, 2)
        for key, line, above in (("total", "-", 12), ("contracted", "--", -16), ("additional", ":", -16)):
            at, error = mean("restart", key)
            runs_of = [[r[key] for r in rows if r["family"] == "restart" and r["value"] == v] for v in at]
            spread = [float(np.std(some, ddof=1)) for some in runs_of]  # type: ignore[arg-type]
            canvas.points(left, at, error, "restart", yerr=spread, linestyle=line)
            left.annotate(
                f"{key} error",
                (at[-1], error[-1]),
                xytext=(-4, above),
                textcoords="offset points",
                ha="right",
                fontsize=canvas.SMALL,
                color=restart.colour,
            )
        canvas.floor(left, baseline, "two samples of the data")
        left.set(xlabel="K, jumps in [1.0, 1.5]", ylabel="W1 (lower is better)", title="errors of Restart against K")
        for family, line, name, at_end in (
            ("ode", "-", "ODE", (4, -10)),
            ("sde", "-", "SDE (churn)", (6, -3)),
            ("restart", "-", "Restart", (-4, 7)),
            ("restart, grid × 2", "--", "Restart, twice the grid", (-4, 7)),
        ):
            x, y = mean(family, "additional")[1], mean(family, "contracted")[1]
            shown = look(family.split(",")[0])
            right.plot(x, y, line, color=shown.colour, marker=shown.marker)
            right.annotate(
                name,
                (x[-1], y[-1]),
                xytext=at_end,
                textcoords="offset points",
                fontsize=canvas.SMALL,
                color=shown.colour,
            )
        right.margins(x=0.15)
        right.set(
            xlabel="additional error, W1", ylabel="contracted error, W1", title="contraction against what is added"
        )
        runs = len({r["seed"] for r in rows})
        canvas.legend(figure, ["ode", "sde", "restart"])
        canvas.save(
            figure,
            path,
            f"Means of {runs} runs; along a line K, the number of steps, or S_churn grows. "
            "Bars, above: standard deviation of the runs.",
        )


def load(path: Path) -> list[dict[str, object]]:
    """Return the rows of a file, with numbers as numbers."""
    with path.open(newline="") as file:
        return [{k: v if k == "family" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="samples per set")
    parser.add_argument("--runs", type=int, default=3, help="repetitions with other seeds")
    parser.add_argument("--train-steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot-only", action="store_true", help="draw the picture of the rows that exist")
    arguments = parser.parse_args()
    baseline = float(np.mean([floor(arguments.n, seed) for seed in range(arguments.runs)]))
    if arguments.plot_only:
        plot(load(arguments.out / "synthetic_mixture.csv"), arguments.out / "synthetic_mixture.png", baseline)
        return
    denoiser = train(arguments.train_steps)
    rows = sweep(denoiser, arguments.n, arguments.runs, [0, 1, 2, 4, 7, 10, 15, 20, 30])
    print(f"two samples of the data: {baseline:.3f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "synthetic_mixture.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([{k: (round(v, 5) if isinstance(v, float) else v) for k, v in r.items()} for r in rows])
    plot(rows, arguments.out / "synthetic_mixture.png", baseline)


if __name__ == "__main__":
    sys.exit(main())
