"""EDM2's presets against the published tables, typed here once more."""

from __future__ import annotations

import pytest
from support.commands import run

import restart_sampling as rs
from restart_sampling.plan.presets import find

ALL = {preset.name: preset for preset in rs.presets() if preset.group == "edm2"}

# Size and thousands of images; EMA length and score of -fid and -dino; EMA length, w and score of -guid-{fid,dino}.
IMG512 = """
xs-2147483 | .135 3.53 | .200 103.39 | .045 1.4 2.91 | .150 1.7 79.94
s-2147483 | .130 2.56 | .190 68.64 | .025 1.4 2.23 | .085 1.9 52.32
m-2147483 | .100 2.25 | .155 58.44 | .030 1.2 2.01 | .015 2.0 41.98
l-1879048 | .085 2.06 | .155 52.25 | .015 1.2 1.88 | .035 1.7 38.20
xl-1342177 | .085 1.96 | .155 45.96 | .020 1.2 1.85 | .030 1.7 35.67
xxl-0939524 | .070 1.91 | .150 42.84 | .015 1.2 1.81 | .015 1.7 33.09
"""
IMG64 = "s-1073741 .075 1.58; m-2147483 .060 1.43; l-1073741 .040 1.33; xl-0671088 .040 1.33"
# Name; network; guide; score, w and both EMA lengths of -fid and -dino.
AUTOGUIDANCE = """
img512-s | img512-s-2147483 | img512-xs-0134217 | 1.34 2.10 .070/.125 | 36.67 2.45 .120/.165
img512-xxl | img512-xxl-0939524 | img512-m-0268435 | 1.25 2.05 .075/.155 | 24.18 2.30 .130/.205
img512-s-uncond | img512-s-uncond-2147483 | img512-xs-uncond-0134217 | 3.86 2.85 .070/.110 | 90.39 2.90 .090/.125
img64-s | img64-s-1073741 | img64-xs-0134217 | 1.01 1.70 .045/.110 | 31.85 2.20 .105/.175
"""
# Size; score; interval; w; EMA length; calls of the guide.
INTERVAL = """
s-fid 1.68 .28 2.90 2.1 .025 14
s-dino 46.25 .60 5.00 3.2 .085 14
xxl-fid 1.40 .19 1.61 2.0 .015 12
xxl-dino 29.16 .60 5.00 2.9 .015 14
"""
LAST = {"s": "2147483", "xxl": "0939524"}


def rows():
    """(name, score, network, guide, w) of each preset."""
    for line in IMG512.strip().splitlines():
        size, *columns = (part.strip() for part in line.split("|"))
        name = f"edm2-img512-{size.split('-')[0]}"
        for kind, column in zip(("fid", "dino", "guid-fid", "guid-dino"), columns, strict=True):
            length, *w, score = column.split()
            guide = f"edm2-img512-xs-uncond-2147483-0{length}.pkl" if w else ""
            yield f"{name}-{kind}", float(score), f"edm2-img512-{size}-0{length}.pkl", guide, float(w[0]) if w else 1.0
    for row in IMG64.split("; "):
        size, length, score = row.split()
        name = f"edm2-img64-{size.split('-')[0]}-fid"
        yield name, float(score), f"edm2-img64-{size}-0{length}.pkl", "", 1.0
    for line in AUTOGUIDANCE.strip().splitlines():
        name, network, guide, *columns = (part.strip() for part in line.split("|"))
        for kind, column in zip(("fid", "dino"), columns, strict=True):
            score, w, lengths = column.split()
            files = [f"edm2-{file}-0{ema}.pkl" for file, ema in zip((network, guide), lengths.split("/"), strict=True)]
            yield f"edm2-{name}-autog-{kind}", float(score), *files, float(w)
    for line in INTERVAL.strip().splitlines():
        name, score, _, _, w, length, _ = line.split()
        size, kind = name.split("-")
        network = f"edm2-img512-{size}-{LAST[size]}-0{length}.pkl"
        guide = f"edm2-img512-xs-uncond-2147483-0{length}.pkl"
        yield f"edm2-img512-{size}-interval-{kind}", float(score), network, guide, float(w)


ROWS = {row[0]: row[1:] for row in rows()}


def test_how_many():
    """24 + 4 + 8 of the authors, by their names, and four of the guidance interval."""
    assert len(ROWS) == 40 and set(ALL) == set(ROWS)
    assert len([name for name in ALL if "-interval-" not in name]) == 36
    assert all(not preset.group for preset in rs.presets()[: -len(ALL)])


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_is_its_row(name):
    score, network, guide, w = ROWS[name]
    preset, plan = find(name), rs.preset(name)
    assert (preset.fid, preset.fd_dinov2) == ((score, None) if name.endswith("-fid") else (None, score))
    assert (preset.network, preset.guide) == (network, guide)
    paper = "2406.02507" if "autog" in name else "2404.07724" if "interval" in name else "2312.02696"
    assert preset.dataset == ("imagenet64" if "img64" in name else "imagenet512") and paper in preset.source
    config = plan.config
    assert (config.steps, config.sigma_max, config.sigma_min, config.rho) == (32, 80.0, 0.002, 7.0)
    assert (config.solver, config.s_churn, config.schedule, plan.intervals) == ("heun", 0.0, "edm", ())
    assert plan.nfe == preset.nfe == 63 and config.guidance_scale == w
    assert bool(guide) == (w != 1)
    for length in {file[-9:-4] for file in (network, guide) if file}:
        assert length in preset.note


@pytest.mark.parametrize("row", INTERVAL.strip().splitlines())
def test_intervals(row):
    name, _, low, high, _, _, calls = row.split()
    size, kind = name.split("-")
    plan = rs.preset(f"edm2-img512-{size}-interval-{kind}")
    assert plan.config.guidance_interval == (float(low), float(high))
    assert plan.config.guidance_interval_rounding == "grid"
    assert plan.network_calls == 63 + int(calls)


def test_the_short_list_stays_short(capsys):
    code, out, _ = run(capsys, "presets")
    assert code == 0 and "edm2-" not in out and "40 more of EDM2: restart-sampling presets edm2" in out
    code, out, _ = run(capsys, "presets", "edm2")
    assert code == 0 and "…" not in out and "cifar10" not in out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("edm2-")}
    assert set(table) == set(ALL)
    assert table["edm2-img512-s-autog-fid"] == ["126", "1.34", "2.1", "everywhere"]
    assert table["edm2-img512-xxl-interval-fid"] == ["75", "1.40", "2", "(0.19,", "1.61]"]
    assert table["edm2-img512-xs-dino"] == ["63", "103.39"]
    code, out, _ = run(capsys, "presets", "edm2-img512-s-autog-dino")
    assert code == 0 and "guide: edm2-img512-xs-0134217-0.165.pkl" in out and "FD of DINOv2 features 36.67" in out
    code, _, err = run(capsys, "presets", "edm2-img512-s-autog-did")
    assert code == 2 and "did you mean 'edm2-img512-s-autog-fid'" in err
