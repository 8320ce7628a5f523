"""Made-up rows of every kind, as the benchmark and tuning commands would write them."""

from __future__ import annotations

import math
import statistics

KINDS = ("speed", "quality", "pooled", "ablation", "trial", "tuned")
COMMON = {
    "model": "fashion-mnist",
    "model_sha256": "3dcc0b57de79",
    "dtype": "fp32",
    "batch": 64,
    "device": "Some CPU @ 2.50GHz",
    "threads": 2,
    "torch": "2.13.0",
    "python": "3.11.7",
    "restart_sampling": "0.4.0",
    "git": "abc1234",
}
JUDGED = {"features": "fashion-mnist-classifier", "reference": "fashion-mnist test"}
CONTENDERS = (
    ("euler", "ode", "engine", "Euler (DDIM)"),
    ("heun", "ode", "engine", "Heun"),
    ("dpm++2m", "ode", "engine", "DPM-Solver++(2M)"),
    ("edm-stochastic", "sde", "engine", "EDM stochastic"),
    ("ddpm", "sde", "engine", "DDPM ancestral"),
    ("heun+restart", "restart", "engine", "Heun + Restart"),
    ("dpm3+restart", "restart", "engine", "DPM-Solver-3 + Restart"),
    ("diffusers/heun", "ode", "diffusers", "diffusers Heun"),
    ("diffusers/ddim", "ode", "diffusers", "diffusers DDIM"),
    ("torch/heun-fp64", "ode", "torch", "plain Heun, fp64"),
    ("torch/restart-fp64", "restart", "torch", "plain Restart, fp64"),
)


def made_rows():
    """Rows of every kind as the commands would write them; the numbers follow a formula and are nobody's results."""
    rows = []
    floor = {"ode": 8.2, "sde": 6.9, "restart": 6.8}
    slow = {"ode": 380.0, "sde": 900.0, "restart": 520.0}
    for place, (sampler, family, by, title) in enumerate(CONTENDERS):
        for asked in (9, 18, 35, 63, 127):
            nfe = asked if family != "ode" or sampler in ("euler", "dpm++2m") else asked - 1 + asked % 2
            restart = f"[3, {max(1, nfe // 20)}, 0.30, 1.0]" if family == "restart" else ""
            row = {
                **COMMON,
                "sampler": sampler,
                "title": title,
                "family": family,
                "by": by,
                "nfe": nfe,
                "nfe_asked": asked,
                "plan": f"{place:02d}{nfe:010x}" if by == "engine" else "",
                "config": {},
                "restart": restart,
            }
            fd = floor[family] + (slow[family] + 17 * place) / nfe**1.6
            blocks = [fd + 0.11 * math.sin(7 * place + nfe + 3 * b) for b in range(4)]
            for b, value in enumerate(blocks):
                rows.append(
                    {
                        **row,
                        **JUDGED,
                        "kind": "quality",
                        "n": 1000,
                        "first_seed": 1_000_000 + 1000 * b,
                        "fd": value,
                        "kid": value / 900,
                        "kid_std": 1e-4,
                        "precision": 0.7,
                        "recall": 0.6,
                        "density": 0.8,
                        "coverage": 0.7,
                        "accuracy": 0.78,
                    }
                )
            rows.append(
                {
                    **row,
                    **JUDGED,
                    "kind": "pooled",
                    "n": 4000,
                    "blocks": 4,
                    "fd": fd - 0.9,
                    "fd_block_mean": statistics.fmean(blocks),
                    "fd_block_std": statistics.stdev(blocks),
                    "fd_block_n": 1000,
                    "accuracy": 0.78,
                    "accuracy_std": 0.01,
                }
            )
            if asked in (18, 35):
                rate = (300 - 20 * (by != "engine") - 4 * place) / nfe
                ms = 64_000 / rate / nfe
                rows.append(
                    {
                        **row,
                        "kind": "speed",
                        "samples_per_s": rate,
                        "samples_per_s_q1": 0.95 * rate,
                        "samples_per_s_q3": 1.03 * rate,
                        "ms_per_evaluation": ms,
                        "ms_outside_network": 0.2 if by == "engine" else 0.05 * ms,
                        "launches_per_evaluation": 2,
                        "bytes_per_evaluation": 2_408_448 if by == "engine" else None,
                        "first_result_s": 0.31,
                        "peak_memory_mb": 210,
                        "rounds": 5,
                        "disturbed": 0,
                        "ratio": 1.25,
                    }
                )
    train = {
        **COMMON,
        **JUDGED,
        "sampler": "train set",
        "title": "train set",
        "family": "",
        "by": "",
        "nfe": 0,
        "restart": "",
    }
    rows.append({**train, "kind": "pooled", "n": 4000, "blocks": 4, "fd": 2.31, "fd_block_std": 0.04})
    for experiment, values in (("K", (0, 1, 2, 4, 8)), ("N_main", (9, 12, 18, 32))):
        for value in values:
            for b in range(2):
                rows.append(ablation(experiment, value, 43, 8 + (value - 4) ** 2 / 40 + 0.1 * b, b))
    for low in (0.06, 0.14, 0.30):
        for high in (0.6, 1.0, 2.0):
            rows.append(ablation("interval", f"[3, 2, {low}, {high}]", 43, 8 + abs(low - 0.3) + abs(high - 1), 0))
    for k in range(30):
        nfe = 15 + 3 * k
        restart = "[3, 1, 0.3, 1]" if k % 2 else ""
        rows.append(
            {
                **COMMON,
                **JUDGED,
                "kind": "trial",
                "trial": k,
                "nfe": nfe,
                "fd": 8 + 90 / nfe + math.sin(9 * k),
                "n": 1000,
                "first_seed": 2_000_000,
                "plan": f"t{k:011d}",
                "config": {"solver": "heun", "steps": 10 + k},
                "restart": restart,
            }
        )
    for budget in (20, 43, 63):
        rows.append(
            {
                **COMMON,
                **JUDGED,
                "kind": "tuned",
                "budget": budget,
                "nfe": budget - 1,
                "fd": 7.5 + 60 / budget,
                "fd_best_preset": 8 + 70 / budget,
                "best_preset": "fashion-mnist-43",
                "fd_heun": 8.4 + 80 / budget,
                "fd_std": 0.5,
                "fd_best_preset_std": 0.6,
                "fd_heun_std": None,
                "better": 2,
                "blocks": 3,
                "n": 1000,
                "first_seed": 1_000_000,
                "plan": "feedfacecafe",
                "config": {"solver": "heun", "steps": 10},
                "restart": "[3, 1, 0.3, 1]",
            }
        )
    return rows


def ablation(experiment, value, nfe, fd, block):
    return {
        **COMMON,
        **JUDGED,
        "kind": "ablation",
        "experiment": experiment,
        "value": value,
        "sampler": "heun+restart",
        "family": "restart",
        "by": "engine",
        "nfe": nfe,
        "plan": "",
        "n": 1000,
        "restart": value if isinstance(value, str) else "[3, 2, 0.30, 1.0]",
        "first_seed": 1_000_000 + 1000 * block,
        "fd": fd,
        "accuracy": 0.8,
    }
