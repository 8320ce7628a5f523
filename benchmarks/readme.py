"""Fills the marked places of README.md from committed results and from what the commands print.

python benchmarks/readme.py            # rewrite README.md
python benchmarks/readme.py --check    # exit 1 if it would change
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import extractors
import synthetic_curves
from synthetic_curves import FAMILIES

import restart_sampling as rs
from restart_sampling.experiments.measure import agreement
from restart_sampling.experiments.measure.rows import find, read
from restart_sampling.experiments.report import pairs_table, quality_table, select, speed_table, tuned_table
from restart_sampling.experiments.report.tables import intervals_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def explain() -> str:
    plan = rs.Plan.build(steps=18, solver="heun", restart="[3, 2, 0.06, 0.30]")
    return f"```\n{plan.explain()}```"


def aot() -> str:
    rows = json.loads((RESULTS / "aot.json").read_text())
    lines = [
        "| kernel | target | registers | spills | shared bytes | SASS per element, with noise / without |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        without = f"{row['shortest_path']:.1f}" if row["variant"].startswith("step") else "–"
        lines.append(
            f"| {row['variant']} | sm_{row['arch']} | {row['registers']} | {row['spills']} | {row['shared']} "
            f"| {row['longest_path']:.1f} / {without} |"
        )
    return "\n".join(lines)


def quality() -> str:
    rows = [row for path in ("quality.jsonl", "ablation.jsonl") for row in read(RESULTS / path)]
    ks = [row for row in rows if row.get("experiment") == "K"]
    lines = [
        "Fréchet distance of the bundled model's samples to the test set, on the features of a small classifier",
        "(FD-classifier, not FID; lower is better). The first FD is of seeds that all rows share, so it compares. Beside it",
        "stands the mean over all blocks of a row, where there are more: it is better known, and compares only with rows of as",
        "many blocks. All classes are weighted alike, which takes out how often seeds happen to ask for a class",
        "([docs/quality.md](docs/quality.md)); ± is the standard deviation over blocks of seeds where there are several. All",
        "samplers begin from the same latents, draw 0 of the seed; noise along the way is each one's own. `make quality` adds",
        "what is missing.",
        "",
        quality_table([row for row in rows if row["n"] == ks[0]["n"]], by="engine"),
        "",
        _pooled(find(rows, kind="pooled")),
        "",
        "\n\n".join(agreement.sentences([*rows, *read(RESULTS / "tune.jsonl")])),
        "",
        "On the same blocks of seeds, with classes weighted alike, mean difference and its standard error:",
        "",
        pairs_table(rows).markdown(),
        "",
        "![FD-classifier against NFE](docs/quality-nfe.png)",
        "",
        f"One interval [3, K, t_min, t_max] with Heun, blocks of n = {ks[0]['n']:,}, the same seeds; 18 points but for",
        "N_main, which has K = 1; the interval is 0.3 to 1 where nothing else is said (`python benchmarks/ablations.py`):",
        "",
        _ablations(rows),
        "",
        "![FD-classifier for K, interval and N_main](benchmarks/results/ablation.png)",
    ]
    return "\n".join(lines)


def _ablations(rows: list[dict[str, Any]]) -> str:
    """Means over blocks with their standard deviation, in the order of the rows."""
    lines = ["| varied | value | NFE | FD, equal classes | right class | blocks |", "|---|---|---|---|---|---|"]
    for point in select.ablation_points(rows):
        if "equal classes" in point["basis"]:
            spread = f" ± {point['std']:.2f}" if point["std"] is not None else ""
            lines.append(
                f"| {point['experiment']} | {point['value']} | {point['nfe']} | {point['fd']:.2f}{spread} "
                f"| {100 * point['accuracy']:.1f} % | {point['blocks']} |"
            )
    return "\n".join(lines)


def _pooled(rows: list[dict[str, Any]]) -> str:
    """The contenders that were drawn on more than one block, with the distance of all their samples together, by how
    many.
    """
    several = {
        (r["sampler"], r["nfe"], r["key"], r["features"], r["n"]): r for r in rows if r["blocks"] > 1
    }  # the last row of equal samples counts
    lines = [
        "All blocks together, classes weighted alike; a distance falls with the number of samples, so only those of one line",
        "compare:",
        "",
    ]
    many = len({r["features"] for r in several.values()}) > 1
    for features, n in sorted({(r["features"], r["n"]) for r in several.values()}, key=lambda key: (key[0], -key[1])):
        mine = sorted((r for r in several.values() if (r["features"], r["n"]) == (features, n)), key=_distance)
        told = ", ".join(f"{r['title']}{_interval(r)} at {r['nfe']} NFE {_distance(r):.2f}" for r in mine)
        lines.append(f"* {features + ', ' if many else ''}{n:,} samples: {told}.")
    return "\n".join(lines)


def _distance(row: dict[str, Any]) -> float:
    return row["fd_balanced"] if row.get("fd_balanced") is not None else row["fd"]


def _interval(row: dict[str, Any]) -> str:
    """The interval of a sampler whose name does not say it."""
    return f" {intervals_of(row)}" if row["restart"] and not row["sampler"].startswith("preset:") else ""


def synthetic() -> str:
    rows = synthetic_curves.load(RESULTS / "synthetic_curves.csv")
    found = synthetic_curves.claim(rows)
    every = synthetic_curves.means(rows, experiment="curve")
    best = {name: min((r for r in every if r["family"] == name), key=lambda r: r["total"]) for name in FAMILIES}
    base = statistics.fmean(r["total"] for r in find(rows, family=synthetic_curves.FLOOR))
    lowest = ", ".join(
        f"{title} {r['total']:.3f} ± {r['std']:.3f} at {r['nfe']} NFE"
        for title, r in zip(FAMILIES.values(), best.values(), strict=True)
    )
    if found.fraction is None:
        verdict = f"Restart does not reach the best SDE; it does in {found.reached} of {found.blocks} runs."
    else:
        best_run = f", with fractions from {found.low:.2f} on" if found.low is not None else ""
        (_, _, nfe, _), error = found.as_good[0]
        between = ""
        if found.between is not None:
            low, high = found.between
            between = f", interpolated between {low} and {high} NFE {found.nfe_restart:.0f} and {found.fraction:.2f}"
        verdict = (
            f"Restart's mean error is as low as the best SDE's at {nfe} NFE ({error:.3f}), {nfe / found.nfe_sde:.2f} of its "
            f"evaluations{between}; run by run, interpolated, Restart reaches the best SDE in {found.reached} of {found.blocks}"
            f"{best_run}."
        )
    runs = f"{found.blocks} runs of {found.n:,} samples ({base:.3f} for two samples of the data)"
    return f"Lowest W1 to the data over {runs}: {lowest}.\n{verdict}"


def overhead() -> str:
    rows = json.loads((RESULTS / "overhead_cpu.json").read_text())
    counts = sorted({row["threads"] for row in rows})
    columns = [f"{n} thread{'s' * (n > 1)}, µs | time / engine's" for n in counts]
    first = rows[0]
    lines = [
        f"µs per evaluation with a network that costs nothing, {first['shape']}: median of {first['rounds']} runs, and the ratio",
        f"with its quartiles ({first['cpu']}, torch {first['torch']}). The loops are plain PyTorch, run as public code runs",
        "them; `lean` leaves out the noise that such code draws and does not use. `D free`: the denoiser costs nothing, so the",
        "loop pays no preconditioning; `F free`: it does, as the engine always does. `make bench-cpu` writes the rows to",
        "`benchmarks/results/overhead_cpu.json`.",
        "",
        "| plan | sampler | NFE | " + " | ".join(columns) + " |",
        "|---|---|---|" + "---|---|" * len(counts),
    ]
    table = {(row["benchmark"], row["sampler"], row["threads"]): row for row in rows}
    for benchmark, sampler in dict.fromkeys((row["benchmark"], row["sampler"]) for row in rows):
        cells = []
        for n in counts:
            row = table[benchmark, sampler, n]
            spread = f"{row['ratio']:.1f} ({row['ratio_q1']:.1f} – {row['ratio_q3']:.1f})"
            cells += [f"{row['median_us']:,.0f}", "–" if sampler == "engine" else spread]
        name = f"engine, {row['backend']}" if sampler == "engine" else sampler
        lines.append(f"| {benchmark.split('/')[1]} | {name} | {row['nfe']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def images() -> str:
    every = json.loads((RESULTS / "images_per_second_cpu.json").read_text())
    rows = [row for row in every if row["benchmark"] == "images_per_second_cpu"]
    parts = [row for row in every if row["benchmark"] == "breakdown_cpu"]
    first = rows[0]
    lines = [
        f"Images per second of the bundled model, preset `fashion-mnist-43`, {first['threads']} threads of {first['cpu']}, torch",
        f"{first['torch']}; the same network in all. The last column is what an evaluation costs besides the network.",
        "`make bench-cpu` writes `benchmarks/results/images_per_second_cpu.json`.",
        "",
        "| batch | sampler | images/s (quartiles) | engine's speed / this | besides the network |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['sampler']} | {row['images_per_s']:.2f} ({row['q1']:.2f} – {row['q3']:.2f}) "
        f"| {row['ratio']:.2f} | {row['sampler_us']:,.0f} µs, {row['sampler_percent']:.1f} % |"
        for row in rows
    ]
    shares = ", ".join(f"{row['part']} {row['percent']:.1f} %" for row in parts)
    return "\n".join([*lines, "", f"An evaluation of the engine at batch {parts[0]['batch']}: {shares}."])


def mixed() -> str:
    one, other, gain = json.loads((RESULTS / "mixed_plans.json").read_text())
    return (
        f"A sweep of {one['plans']} plans, {one['samples'] // one['plans']} samples each, batch {one['batch']}: plan by plan "
        f"{one['network_calls']} network calls of {one['samples_per_call']:.1f} samples, as (seed, plan) pairs "
        f"{other['network_calls']} of {other['samples_per_call']:.1f}; {gain['median']:.2f} times as fast on this CPU "
        f"({gain['min']:.2f} to {gain['max']:.2f} over {one['rounds']} rounds, `benchmarks/mixed_plans.py`)."
    )


def step() -> str:
    found = json.loads((RESULTS / "step_cpu.json").read_text())
    lines = [
        f"The native step of a CPU ({found['cpu']}, {found['simd']}, {found['threads']} threads), as a share of the bandwidth of",
        "a triad over as many bytes, which the caches may hold, and of one over 432 MB; medians and quartiles of one run, by",
        "`benchmarks/step_cpu.py`:",
        "",
        "| shape | Heun stage | network | without noise | of memory | with noise | of memory |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [r for r in found["rows"] if r["what"] == "step" and r["threads"] == found["threads"]]
    cells = {(tuple(r["shape"]), r["stage"], r["network"], r["noise"]): r for r in rows}
    for shape, stage, network in dict.fromkeys(key[:3] for key in cells):
        both = (cells[shape, stage, network, noise] for noise in (False, True))
        shown = " | ".join(
            f"{r['of_triad']['median']:.2f} ({r['of_triad']['q1']:.2f} – {r['of_triad']['q3']:.2f}) | {r['of_memory_triad']:.2f}"
            for r in both
        )
        lines.append(f"| {list(shape)} | {stage} | {network} | {shown} |")
    return "\n".join(lines)


def scale() -> str:
    """Of docs/scale.md."""
    rows = json.loads((RESULTS / "scale.json").read_text())["rows"]
    lines = ["| format | samples | µs per sample | bytes per sample |", "|---|---|---|---|"]
    lines += [
        f"| {r['format']} | {r['samples']:,} | {r['us_per_sample']:.0f} | {r['bytes_per_sample']:,.0f} |"
        for r in find(rows, what="job")
    ]
    (row,) = find(rows, what="writing")
    share = row["share_of_speed"]
    lines += [
        "",
        f"The bundled model at {row['nfe']} NFE writes PNG files at {100 * share['median']:.1f} % ({100 * share['q1']:.1f} – "
        f"{100 * share['q3']:.1f}) of the speed it has without writing, start and end of the job counted; "
        f"{row['disturbed']} of {row['rounds']} rounds were disturbed by other processes.",
    ]
    return "\n".join(lines)


def tuned() -> str:
    rows = read(RESULTS / "tune.jsonl")
    trials, found = find(rows, kind="trial"), find(rows, kind="tuned")
    newest = {row["budget"]: row for row in found}
    plans = {newest[budget]["plan"]: newest[budget] for budget in sorted(newest)}
    lines = [
        f"`make tune` drew {len(trials)} plans, {trials[0]['n']:,} images each, and measured what it found on fresh seeds beside",
        "the best preset within the budget and plain Heun at it: FD-classifier with equal classes, mean and standard deviation",
        f"over blocks of {found[0]['n']:,} seeds.",
        "",
        tuned_table(rows),
        "",
        "```",
        *(row["command"] for row in plans.values()),
        "```",
        "",
        "![Every plan that was drawn, and what was found](benchmarks/results/pareto.png)",
    ]
    return "\n".join(lines)


def speed() -> str:
    rotations = select.groups(select.speed_rows(read(RESULTS / "speed.jsonl")), select.SPEED_GROUP)
    first = rotations[0].rows[0]
    of_one = {group.key: len({row["nfe_asked"] for row in group.rows}) == 1 for group in rotations}
    one = next(group for group in rotations if of_one[group.key])
    several = next(group for group in rotations if not of_one[group.key])
    lines = [
        "Samples per second of the bundled model beside other libraries and plain loops on the same network:",
        f"{first['device']}, {first['threads']} threads, batch {first['batch']}, {first['dtype']}, {first['rounds']} rounds. "
        "`make speed` runs two rotations, and",
        "in each all samplers take turns in one process: every sampler at one budget (first picture), and samplers of several",
        "budgets whose quality is known (second picture: at equal quality, the sampler further right is faster).",
        "",
        "![Samples per second](docs/samples-per-second.png)",
        "",
        "![FD-classifier against samples per second](docs/quality-speed.png)",
        "",
        "<details><summary>The rows: one budget, then several</summary>",
        "",
        speed_table(one.rows),
        "",
        speed_table(several.rows),
        "",
        "</details>",
    ]
    return "\n".join(lines)


PLACES = {
    "explain": explain,
    "aot": aot,
    "quality": quality,
    "overhead": overhead,
    "images": images,
    "mixed": mixed,
    "step": step,
    "synthetic": synthetic,
    "tuned": tuned,
    "speed": speed,
}


def machines() -> str:
    """Of docs/quality.md."""
    found = json.loads((RESULTS / "machines.json").read_text())
    blocks, here = found["blocks"], found["here"]
    there = ", ".join(dict.fromkeys(block["device"] for block in blocks))
    return (
        f"{len(blocks)} blocks of {blocks[0]['n']:,} samples ({blocks[0]['sampler']}, {blocks[0]['nfe']} NFE), drawn on {there}\n"
        f"and again on {here['device']}: their distances, of about {statistics.fmean(b['fd_balanced'] for b in blocks):.1f}, "
        f"differ by at most {found['moved']:.1g} (`benchmarks/machines.py`)."
    )


PAGES = {
    "README.md": PLACES,
    "docs/scale.md": {"scale": scale},
    "docs/quality.md": {"machines": machines, "extractors": lambda: extractors.table(read(RESULTS / "quality.jsonl"))},
}


def filled(text: str, page: str = "README.md") -> str:
    """A page's text with every marked place, from `<!-- name -->` to `<!-- /name -->`, written again."""
    for name, make in PAGES[page].items():
        pattern = rf"<!-- {name} -->.*?<!-- /{name} -->"
        if not re.search(pattern, text, flags=re.S):
            raise SystemExit(f"{page} has no place marked {name}")
        body = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        text = re.sub(pattern, lambda _, body=body: body, text, flags=re.S)  # type: ignore[misc]
    return text


def main() -> int:
    changed = 0
    for page in PAGES:
        path = ROOT / page
        old = path.read_text()
        new = filled(old, page)
        changed |= old != new
        if "--check" not in sys.argv:
            path.write_text(new)
    return int(changed) if "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
