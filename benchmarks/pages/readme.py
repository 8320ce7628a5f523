"""Blocks of README.md: one plan explained, and what is measured, in five rows."""

from __future__ import annotations

import restart_sampling as rs
from restart_sampling.experiments.measure import comparison
from restart_sampling.experiments.measure.rows import find, read

from ._markdown import RESULTS, listed, load, table
from .quality import SDE, verdicts

PAGE = "README.md"


def explain() -> str:
    return f"```\n{rs.Plan.build(steps=18, solver='heun', restart='[3, 2, 0.06, 0.30]').explain()}```"


def measured() -> str:
    rows = (_overhead(), _images(), _quality(), _mixed(), _kills())
    return table(["what", "measured", "caveat"], rows)


def _overhead() -> tuple[str, str, str]:
    rows = find(load("overhead_cpu.json"), benchmark="overhead_cpu/restart", threads=1)
    engine, free, lean = (
        find(rows, sampler=name)[0] for name in ("engine", "fp64 loop, D free", "fp64 loop, D free, lean")
    )
    return (
        f"[the sampler's own time](docs/performance.md), Restart, {engine['nfe']} NFE, {engine['shape']}",
        f"{engine['median_us']:,.0f} µs per evaluation; a plain float64 loop takes {free['ratio']:.0f} times as long",
        f"one thread, a network that costs nothing; {lean['ratio']:.0f} times beside a loop that draws no unused noise",
    )


def _images() -> tuple[str, str, str]:
    rows = find(load("images_per_second_cpu.json"), benchmark="images_per_second_cpu", batch=64)
    engine, loop, one = (find(rows, sampler=name)[0] for name in ("engine", "fp64 loop", "engine, one slice"))
    return (
        f"[images per second](docs/performance.md#images-per-second), bundled model, batch {engine['batch']}",
        f"{engine['images_per_s']:.1f}, a plain float64 loop {loop['images_per_s']:.1f}",
        f"the network takes {100 - engine['sampler_percent']:.1f} % of the time; "
        f"{one['images_per_s']:.1f} without cutting the batch into slices, one for each thread",
    )


def _quality() -> tuple[str, str, str]:
    found = comparison.comparison(read(RESULTS / comparison.FILE))
    told = {family: comparison.outcome(found, family) for family in ("sde", "ode")} if found is not None else {}
    if found is not None and all(told.values()):
        return (
            "[Fréchet distance](docs/quality.md#the-best-of-each-family-at-equal-evaluations), Restart against the "
            f"best SDE and ODE sampler at equal evaluations, {min(found.budgets)} to {max(found.budgets)}, "
            f"{found.trials} trials each",
            f"against the SDE it {told['sde']}; against the ODE it {told['ode']}".replace(
                "on all", "by all extractors"
            ),
            f"a model of 1 M parameters on Fashion-MNIST, not FID; a win is one by each of the {len(found.held_out)} "
            "extractors that chose no plan",
        )
    every = list(verdicts())
    verdict = max(every, key=lambda v: v.nfe)
    below, level, above = (verdict.said(sign) for sign in (-1, 0, 1))
    said = [f"lower by {listed(below)}"] if below else []
    said += [f"no measurable difference by {listed([name.split(' ')[0] for name in level])}"] if level else []
    said += [f"higher by {listed(above)}"] if above else []
    caveat = "a model of 1 M parameters on Fashion-MNIST, not FID"
    if not any(len(v.said(-1)) == len(v.differences) for v in every):
        caveat += "; no plan is lower by every extractor, so no claim is made that Restart beats the SDE"
    return (
        f"[Fréchet distance](docs/quality.md), `{verdict.sampler}` at {verdict.nfe} NFE less the best SDE at "
        f"{SDE.rpartition('@')[2]}",
        "; ".join(said),
        caveat,
    )


def _mixed() -> tuple[str, str, str]:
    one, other, gain = load("mixed_plans.json")
    return (
        f"[different plans in one batch](docs/performance.md#different-plans-in-one-batch), {one['plans']} plans",
        f"{other['network_calls']} network calls in place of {one['network_calls']}, "
        f"{gain['median']:.1f} times as fast",
        f"{one['samples'] // one['plans']} samples of each plan; {gain['min']:.1f} to {gain['max']:.1f} over "
        f"{one['rounds']} rounds",
    )


def _kills() -> tuple[str, str, str]:
    rows = load("kill_trials.json")["rows"]
    equal, trials = (sum(row[name] for row in rows) for name in ("equal", "trials"))
    return (
        "[jobs killed at random moments](docs/production.md) and resumed",
        f"{equal} of {trials} folders equal those of an undisturbed run, byte for byte",
        f"one machine, at most {max(row['workers'] for row in rows)} workers, a network of a few operations",
    )
