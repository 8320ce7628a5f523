"""Blocks of docs/performance.md: what the sampler costs, counted and timed on a CPU."""

from __future__ import annotations

from restart_sampling.experiments.measure.rows import find, read
from restart_sampling.experiments.report import select, speed_table

from ._markdown import RESULTS, load, prose, table

PAGE = "docs/performance.md"


def overhead() -> str:
    rows = load("overhead_cpu.json")
    counts = sorted({row["threads"] for row in rows})
    first = rows[0]
    about = prose(
        f"µs per evaluation with a network that costs nothing, {first['shape']}: median of {first['rounds']} runs, and",
        f"the ratio with its quartiles ({first['cpu']}, torch {first['torch']}). The loops are plain PyTorch, run as",
        "public code runs them; `lean` leaves out the noise that such code draws and does not use. `D free`: the",
        "denoiser costs nothing, so the loop pays no preconditioning; `F free`: it does, as the engine always does.",
        "`make bench-cpu` writes the rows to `benchmarks/results/overhead_cpu.json`.",
    )
    cells = {(row["benchmark"], row["sampler"], row["threads"]): row for row in rows}
    lines = []
    for benchmark, sampler in dict.fromkeys((row["benchmark"], row["sampler"]) for row in rows):
        engine, line = sampler == "engine", []
        for n in counts:
            row = cells[benchmark, sampler, n]
            spread = f"{row['ratio']:.1f} ({row['ratio_q1']:.1f} – {row['ratio_q3']:.1f})"
            line += [f"{row['median_us']:,.0f}", "–" if engine else spread]
        name = f"engine, {row['backend']}" if engine else sampler
        lines.append([benchmark.split("/")[1], name, row["nfe"], *line])
    columns = [f"{n} thread{'s' * (n > 1)}, µs | time / engine's" for n in counts]
    made = table(["plan", "sampler", "NFE", *" | ".join(columns).split(" | ")], lines)
    return f"{about}\n\n{made}"


def images() -> str:
    every = load("images_per_second_cpu.json")
    rows, parts = find(every, benchmark="images_per_second_cpu"), find(every, benchmark="breakdown_cpu")
    first = rows[0]
    about = prose(
        f"Images per second of the bundled model, preset `fashion-mnist-43`, {first['threads']} threads of",
        f"{first['cpu']}, torch {first['torch']}; the same network in all. The last column is what an evaluation costs",
        "besides the network. `make bench-cpu` writes `benchmarks/results/images_per_second_cpu.json`.",
    )
    lines = [
        (
            row["batch"],
            row["sampler"],
            f"{row['images_per_s']:.2f} ({row['q1']:.2f} – {row['q3']:.2f})",
            f"{row['ratio']:.2f}",
            f"{row['sampler_us']:,.0f} µs, {row['sampler_percent']:.1f} %",
        )
        for row in rows
    ]
    made = table(["batch", "sampler", "images/s (quartiles)", "engine's speed / this", "besides the network"], lines)
    shares = ", ".join(f"{row['part']} {row['percent']:.1f} %" for row in parts)
    return f"{about}\n\n{made}\n\n" + prose(f"An evaluation of the engine at batch {parts[0]['batch']}: {shares}.")


def speed() -> str:
    rotations = select.groups(select.speed_rows(read(RESULTS / "speed.jsonl")), select.SPEED_GROUP)
    first = rotations[0].rows[0]
    of_one = {group.key: len({row["nfe_asked"] for row in group.rows}) == 1 for group in rotations}
    one = next(group for group in rotations if of_one[group.key])
    several = next(group for group in rotations if not of_one[group.key])
    about = prose(
        "Samples per second of the bundled model beside other libraries and plain loops on the same network:",
        f"{first['device']}, {first['threads']} threads, batch {first['batch']}, {first['dtype']}, {first['rounds']}",
        "rounds. `make speed` runs two rotations, and in each all samplers take turns in one process: every sampler",
        "at one budget (first picture), and samplers of several budgets whose quality is known (second picture: at",
        "equal quality, the sampler further right is faster).",
    )
    return "\n\n".join(
        [
            about,
            "![Samples per second](samples-per-second.png)",
            "![FD-classifier against samples per second](quality-speed.png)",
            "<details><summary>The rows: one budget, then several</summary>",
            speed_table(one.rows),
            speed_table(several.rows),
            "</details>",
        ]
    )


def mixed() -> str:
    one, other, gain = load("mixed_plans.json")
    return prose(
        f"A sweep of {one['plans']} plans, {one['samples'] // one['plans']} samples each, batch {one['batch']}: plan",
        f"by plan {one['network_calls']} network calls of {one['samples_per_call']:.1f} samples, as (seed, plan) pairs",
        f"{other['network_calls']} of {other['samples_per_call']:.1f}; {gain['median']:.2f} times as fast on this CPU",
        f"({gain['min']:.2f} to {gain['max']:.2f} over {one['rounds']} rounds, `benchmarks/mixed_plans.py`).",
    )


def guidance() -> str:
    rows = load("guidance_interval_cpu.json")
    first, some = rows[0], next(row for row in rows if row["interval"])
    low, high = some["interval"]
    about = prose(
        f"The bundled class-conditional model, DPM-Solver++(2M) with {first['nfe']} evaluations, guidance",
        f"{first['scale']:g}, batch {first['batch']}, {first['threads']} thread of {first['cpu']}; the interval is",
        f"sigma {low:g} to {high:g}. Predicted is what the network calls say: those of guidance everywhere over those",
        "of the row. Measured is the ratio of times, taken within each of the",
        f"{first['rounds']} rounds in which the three take turns in one process",
        f"(`benchmarks/guidance_interval_cpu.py`). Other processes were at work in {first['disturbed']} of them, so",
        "only ratios are shown; those of CPU time leave out what others had.",
    )
    lines = [
        (
            row["guidance"],
            f"{row['network_calls']} ({row['calls_counted']:g})",
            f"{row['predicted']:.2f}",
            *(f"{row[n]:.2f} ({row[f'{n}_q1']:.2f} – {row[f'{n}_q3']:.2f})" for n in ("ratio", "cpu_ratio")),
        )
        for row in rows
    ]
    columns = ["guidance", "network calls (counted)", "times as fast, predicted", "measured (quartiles)", "by CPU time"]
    return f"{about}\n\n{table(columns, lines)}"


def step() -> str:
    found = load("step_cpu.json")
    about = prose(
        f"The native step of a CPU ({found['cpu']}, {found['simd']}, {found['threads']} threads), as a share of the",
        "bandwidth of a triad over as many bytes, which the caches may hold, and of one over 432 MB; medians and",
        "quartiles of one run, by `benchmarks/step_cpu.py`:",
    )
    rows = find(found["rows"], what="step", threads=found["threads"])
    cells = {(tuple(r["shape"]), r["stage"], r["network"], r["noise"]): r for r in rows}
    lines = []
    for shape, stage, network in dict.fromkeys(key[:3] for key in cells):
        line: list[object] = [list(shape), stage, network]
        for noise in (False, True):
            row = cells[shape, stage, network, noise]
            share = row["of_triad"]
            line += [f"{share['median']:.2f} ({share['q1']:.2f} – {share['q3']:.2f})", f"{row['of_memory_triad']:.2f}"]
        lines.append(line)
    columns = ["shape", "Heun stage", "network", "without noise", "of memory", "with noise", "of memory"]
    return f"{about}\n\n{table(columns, lines)}"


def aot() -> str:
    lines = []
    for row in load("aot.json"):
        without = f"{row['shortest_path']:.1f}" if row["variant"].startswith("row") else "–"
        instructions = f"{row['longest_path']:.1f} / {without}"
        lines.append(
            (row["variant"], f"sm_{row['arch']}", row["registers"], row["spills"], row["shared"], instructions)
        )
    columns = ["kernel", "target", "registers", "spills", "shared bytes", "SASS per element, with noise / without"]
    return table(columns, lines)


def machines() -> str:
    rows = load("aot_machine.json")
    target = 90
    cells = {row["variant"]: row for row in rows if row["arch"] == target}
    kinds = {
        "plain": "",
        "two noise terms": "-noises2",
        "guided": "-guided",
        "known image": "-paste",
        "all, and weights": "-noises2-guided-weighed-paste",
    }
    lines = []
    for dtype in ("fp32", "bf16"):
        for r in range(4):
            line: list[object] = [dtype, r]
            for kind in kinds.values():
                row = cells[f"row-{dtype}{'' if r == 1 else f'-R{r}'}{kind}"]
                line.append(f"{row['registers']}: {row['longest_path']:.0f} / {row['shortest_path']:.0f}")
            lines.append(line)
    spilled = sum(row["spills"] + row["stack"] for row in rows)
    contracted = sum(len(row["contracted"]) for row in rows)
    of_rows = [row for row in rows if row["variant"].startswith("row")]
    shared, most = sum(row["shared"] for row in of_rows), max(row["registers"] for row in of_rows)
    about = prose(
        f"A machine is compiled for what it has. In its {len(rows)} kernels on two targets there are {spilled} spills",
        f"and {contracted} contracted products, rows use {shared} bytes of shared memory, and none takes more than",
        f"{most} registers of a thread. The table has registers, then SASS per element on the longest and on the",
        f"shortest path through a row, on sm_{target}, by the network's dtype and R, the history registers of the",
        "machine. The longest draws all noise, stores a history register and pastes; the shortest does none of that,",
        "whatever the machine has.",
    )
    wide, narrow = cells["weigh-fp32"], cells["weigh-bf16"]
    last = prose(
        "The weights of two outputs are a kernel with one program of 8 warps for a sample:",
        f"{wide['registers']} registers and {wide['loop']:.1f} instructions for each element of float32 outputs,",
        f"{narrow['registers']} and {narrow['loop']:.1f} of bfloat16 ones, {wide['shared']} bytes of shared memory.",
    )
    return f"{about}\n\n{table(['network', 'R', *kinds], lines)}\n\n{last}"


def norms() -> str:
    rows = load("aot_norms.json")
    lines = [
        (
            row["variant"],
            row["registers"],
            f"{row['longest_path']:.1f}",
            f"{row['bytes_per_element']}, {row['least_bytes_per_element']}",
        )
        for row in rows
        if row["arch"] == 90
    ]
    spills = sum(row["spills"] + row["stack"] for row in rows)
    said = prose(
        f"{len(rows)} kernels on two targets, {spills} spills; on sm_90, with all vectors and silu. The bytes are",
        "what a kernel moves for an element, and the least that any could: x read once and each result written once.",
    )
    return f"{said}\n\n{table(('kernel', 'registers', 'SASS per element', 'bytes per element, least'), lines)}"


def ranges() -> str:
    rows = load("marks.json")
    about = prose(
        f"ns to enter and leave a named range while no profiler listens ({rows[0]['cpu']}, median of",
        f"{rows[0]['rounds']} rounds, `benchmarks/marks.py`). A run enters one range for each stretch of the main grid",
        "and each iteration of an interval, not one for each evaluation.",
    )
    lines = [(row["provider"], f"{row['ns']:,.0f} ({row['q1']:,.0f} – {row['q3']:,.0f})") for row in rows]
    return f"{about}\n\n{table(['range', 'ns (quartiles)'], lines)}"
