"""The report: one page from made-up rows, judged as a browser and a reader would."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.commands import run as call
from support.html import Page
from support.report_rows import KINDS, made_rows

import restart_sampling as rs
from restart_sampling.experiments.measure import agreement, claims
from restart_sampling.experiments.report import make_page, pairs_table, quality_table, select, speed_table, tuned_table
from restart_sampling.experiments.report.export import csv_text, latex_text
from restart_sampling.experiments.report.front import front
from restart_sampling.experiments.report.page import TEMPLATES, Live

pytest.importorskip("plotly")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def live():
    """Images of a tiny analytic model drawn by two stand-ins for contenders."""
    from restart_sampling.experiments.report.samples import sample_grids

    den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=(1, 8, 8))

    def contender(title, **options):
        def runner(denoiser, nfe, *, batch_size=64, dtype="fp32"):
            sampler = rs.Sampler(denoiser, rs.Plan.build(steps=(nfe + 1) // 2, **options), batch_size=batch_size)
            return SimpleNamespace(
                nfe=sampler.plan.nfe, plan=sampler.plan, draw=lambda seeds: (sampler.run(seeds), None)
            )

        return SimpleNamespace(title=title, runner=runner)

    some = [contender("Heun"), contender("Heun + Restart", restart=[2, 1, 0.3, 1.0])]
    return Live("gaussian", tuple(sample_grids(den, some, budgets=(5, 9), seeds=range(6), columns=3)), "0-5")


@pytest.fixture(scope="module")
def whole(live):
    return make_page(made_rows(), folders=["some/results"], live=live)


def test_the_page_is_html_and_loads_nothing(whole):
    page = Page(whole)
    assert page.open == []  # every tag that was opened was closed, in order
    assert not [tag for tag, attributes in page.tags if tag == "script" and "src" in attributes]
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", whole, re.S)[1]
    assert "url(" not in style and "@import" not in style
    assert whole.count("plotly.js v") == 1
    assert [a for tag, a in page.tags if tag == "img" and not a.get("alt")] == []


def test_the_page_holds_its_style_and_script_as_they_are_written(whole):
    """Jinja reads the template's files, and must find nothing of its own in the style and the script."""
    for name in ("report.css", "report.js"):
        assert (TEMPLATES / name).read_text().rstrip() in whole


def test_every_section_has_a_figure_or_images(whole):
    page = Page(whole)
    sections = [a["id"] for tag, a in page.tags if tag == "section"]
    assert sections == [
        "quality",
        "speed-quality",
        "speed",
        "time",
        "samples",
        "trajectory",
        "ablation-K",
        "ablation-interval",
        "ablation-N-main",
        "tuning",
        "environment",
        "again",
    ]
    assert sum(tag == "img" for tag, _ in page.tags) == 4  # two samplers, two budgets
    assert len(page.figures) == len([a for _, a in page.tags if a.get("class") == "plot"]) >= 9


@pytest.mark.parametrize("missing", [*KINDS, "everything"])
def test_a_missing_kind_is_named_with_the_command_that_makes_it(missing):
    rows = [] if missing == "everything" else [row for row in made_rows() if row["kind"] != missing]
    page = Page(make_page(rows, folders=["some/results"]))
    said = {
        "speed": "There are no speed rows yet. This makes them: restart-sampling bench",
        "ablation": "How to make it again",  # a script of the repository makes them, which an installed package lacks
        "everything": "There are no quality rows yet. This makes them: restart-sampling bench",
    }
    assert said.get(missing, "How to make it again") in page.text
    assert ("No rows were found." in page.text) == (missing == "everything")


def test_text_of_rows_is_escaped(live):
    rows = made_rows()
    bad = "</script><b>bold</b>&amp;<img src=x onerror=alert(1)>"
    for row in rows:
        if row.get("sampler") in ("heun", "heun+restart"):
            row |= {"sampler": bad, "title": bad, "restart": bad, "plan": bad, "git": bad, "device": bad, "value": bad}
    text = make_page(rows, title=bad, folders=[bad], live=live)
    page = Page(text)
    assert page.open == []
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert sum(tag == "img" for tag, _ in page.tags) == len(live.grids)
    assert any(bad in cell for table in page.tables for line in table for cell in line)
    names = {trace.get("name") for figure in page.figures for trace in figure["data"]}
    assert "&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt;&amp;amp;&lt;img src=x onerror=alert(1)&gt;" in names


def test_numbers_of_tables_and_traces_are_those_of_the_rows(whole):
    page, rows = Page(whole), made_rows()
    table = page.tables[0]
    lines = [dict(zip(table[0], line, strict=True)) for line in table[1:]]
    heun = next(line for line in lines if line["sampler"] == "Heun" and line["NFE"] == "35")
    row = next(r for r in rows if r["kind"] == "pooled" and r["sampler"] == "heun" and r["nfe"] == 35)
    assert heun["FD"] == f"{row['fd']:.4g} ± {row['fd_block_std']:.4g}"
    assert (heun["n"], heun["seeds"], heun["blocks"]) == ("4,000", "1000000-1003999", "4")
    trace = next(t for t in page.figures[0]["data"] if t["name"] == "Heun")
    assert dict(zip(trace["x"], trace["y"], strict=True))[35] == row["fd"]
    speeds = next(t for t in page.tables if "samples/s" in t[0] and "rounds" in t[0])
    line = next(dict(zip(speeds[0], s, strict=True)) for s in speeds[1:] if s[0] == "Heun")
    row = next(r for r in rows if r["kind"] == "speed" and r["sampler"] == "heun" and str(r["nfe"]) == line["NFE"])
    assert line["samples/s"] == f"{row['samples_per_s']:.4g}"


def test_blocks_without_a_pooled_row_become_their_mean_and_spread():
    rows = [r for r in made_rows() if r["kind"] == "quality"]
    point = next(p for p in select.quality_points(rows) if p["sampler"] == "heun" and p["nfe"] == 35)
    values = [r["fd"] for r in rows if r["sampler"] == "heun" and r["nfe"] == 35]
    assert point["fd"] == pytest.approx(np.mean(values))
    assert point["std"] == pytest.approx(np.std(values, ddof=1))
    assert (point["n"], point["blocks"]) == (4000, 4)


def test_what_cannot_be_compared_is_not_in_one_figure():
    """Two feature sets, two references, two precisions, two block sizes, two models: a group each, and a selector."""
    rows = [r for r in made_rows() if r["kind"] == "quality" and r["sampler"] != "train set"]
    other = [
        {"features": "inception"},
        {"reference": "train"},
        {"dtype": "bf16"},
        {"n": 500},
        {"model_sha256": "000000000000"},
    ]
    rows += [{**r, **change} for change in other for r in rows if r["sampler"] == "heun"]
    found = select.quality_groups(rows)
    assert len(found) == 6
    for group in found:
        for name in select.QUALITY_GROUP:
            assert len({row[name] for row in group.rows}) == 1
    assert len({group.label for group in found}) == 6
    page = Page(make_page(rows))
    assert sum(tag == "option" for tag, _ in page.tags) == 6


def test_a_mean_stands_only_beside_means_over_the_same_seeds():
    """Ten blocks of three samplers, five of a fourth, one of a fifth, one of other seeds: four pictures, each of equal
    seeds.
    """

    def drawn(sampler, blocks):
        return [
            {
                "kind": "quality",
                "sampler": sampler,
                "family": "ode",
                "by": "engine",
                "nfe": 35,
                "n": 1000,
                "fd": 3.0 + 0.1 * b * len(sampler),
                "first_seed": 1000 * b,
                "features": "f",
                "reference": "r",
            }
            for b in blocks
        ]

    rows = [r for name in ("a", "bb", "ccc") for r in drawn(name, range(10))]
    rows += drawn("dddd", range(5)) + drawn("eeeee", [0]) + drawn("ffffff", [77])
    found = {group.rows[0]["seeds"]: {p["sampler"]: p for p in group.rows} for group in select.quality_groups(rows)}
    assert {seeds: set(points) for seeds, points in found.items()} == {
        "0-999": {"a", "bb", "ccc", "dddd", "eeeee"},
        "0-4999": {"a", "bb", "ccc", "dddd"},
        "0-9999": {"a", "bb", "ccc"},
        "77000-77999": {"ffffff"},
    }
    for seeds, blocks in (("0-999", 1), ("0-4999", 5), ("0-9999", 10)):
        for name, point in found[seeds].items():
            assert point["fd"] == pytest.approx(3.0 + 0.1 * len(name) * (blocks - 1) / 2)
            assert point["blocks"] == blocks and (point["std"] is None) == (blocks == 1)
    largest, most = select.panels(select.quality_groups(rows))
    assert (largest.rows[0]["blocks"], most.rows[0]["blocks"]) == (1, 10)


def test_loops_that_began_from_other_latents_stand_alone():
    """Rows of plain loops from before they had the engine's latents: the same seeds were another start."""
    rows = [
        {**r, "key": key}
        for r in made_rows()
        if r["kind"] == "quality" and r["sampler"] == "torch/heun-fp64" and r["nfe"] == 35
        for key in ("torch-heun-fp64-draw0-abc-fp32", "torch-heun-fp64-abc-fp32")
    ]
    rows += [r for r in made_rows() if r["kind"] == "quality" and r["sampler"] == "heun" and r["nfe"] == 35]
    (alone,) = [
        g
        for g in select.quality_groups([r for r in rows if "draw0" not in r.get("key", "")])
        if len(g.rows) == 1 and g.rows[0]["by"] == "torch"
    ]
    assert "from other latents" in alone.label
    (group,) = select.quality_groups([r for r in rows if r.get("key") != "torch-heun-fp64-abc-fp32"])
    assert {p["sampler"] for p in group.rows} == {"torch/heun-fp64", "heun"}


def test_distances_of_two_machines_are_one_contender():
    """Blocks that another machine drew are more blocks; the same block from both counts once, the later row."""
    rows = [r for r in made_rows() if r["kind"] == "quality" and r["sampler"] == "heun" and r["nfe"] == 35]
    other = [
        {**r, "device": "Another", "fd": r["fd"] + 1, "first_seed": r["first_seed"] + 4000 * (r is not rows[0])}
        for r in rows
    ]
    (point,) = select.quality_points([*rows, *other])
    assert (point["blocks"], point["n"]) == (7, 7000)
    assert point["fd"] == pytest.approx(np.mean([r["fd"] for r in (*rows[1:], *other)]))
    assert len(claims.pairs(rows)) == 0


def test_speeds_stand_together_where_they_took_turns():
    """The same sampler in two rotations is two rows, in two groups; within one the later measurement counts."""
    rows = [r for r in made_rows() if r["kind"] == "speed"]
    turns = [{**r, "rotation": name, "samples_per_s": k} for k, name in enumerate("aab", 1) for r in rows]
    found = select.groups(select.speed_rows(turns), select.SPEED_GROUP)
    assert [len(group.rows) for group in found] == [len(select.speed_rows(rows))] * 2
    assert [{row["samples_per_s"] for row in group.rows} for group in found] in ([{2}, {3}], [{3}, {2}])
    for group in select.groups(select.speed_at_quality([*made_rows(), *turns]), select.SPEED_QUALITY_GROUP):
        assert len({row.get("rotation") for row in group.rows}) == 1


def test_a_repeated_measurement_replaces_the_older():
    rows = [r for r in made_rows() if r["kind"] == "speed"]
    again = {**rows[0], "samples_per_s": 99.0, "git": "newer"}
    found = [
        r for r in select.speed_rows([*rows, again]) if r["sampler"] == again["sampler"] and r["nfe"] == again["nfe"]
    ]
    assert [r["samples_per_s"] for r in found] == [99.0]


def test_distances_with_equal_classes_are_points_of_their_own():
    """In a group of their own, which comes first; the distance as it was drawn stands beside."""
    rows = [
        {**row, "fd_balanced": row["fd"] / 2, "fd_balanced_block_mean": 1.0, "fd_balanced_block_std": 0.25}
        for row in made_rows()
        if row["kind"] in ("quality", "pooled")
    ]
    first, *others = select.quality_groups(rows)
    assert "equal classes" in first.label
    drawn = next(group for group in others if group.label == first.label.replace(", equal classes,", ""))
    for row, plain in zip(first.rows, drawn.rows, strict=True):
        assert (row["fd"], row["fd_drawn"], row["std"]) == (plain["fd"] / 2, plain["fd"], 0.25)
    assert "| as drawn |" in quality_table(rows).splitlines()[0]


def test_front_is_what_no_point_beats():
    """Against the definition, on random points."""
    draw = np.random.default_rng(1)
    points = [{"nfe": float(a), "fd": float(b)} for a, b in draw.random((60, 2))]
    for sign in (1, -1):
        best = [
            p
            for p in points
            if not any(sign * q["nfe"] <= sign * p["nfe"] and q["fd"] <= p["fd"] and q is not p for q in points)
        ]
        found = front(points, lambda p, sign=sign: sign * p["nfe"], lambda p: p["fd"])
        assert sorted(p["nfe"] for p in found) == sorted(p["nfe"] for p in best)


def test_claims_stand_on_top():
    """What `bench.witnesses` says of the rows, escaped; a page without such rows says nothing."""
    rows = [{**row, "sampler": f"<b>{row.get('sampler')}"} for row in made_rows()]
    page = Page(make_page(rows))
    verdict, sentence = agreement.sentences(rows)
    assert verdict.startswith("No claim") and "Plans were chosen by fashion-mnist-classifier" in verdict
    assert "<b>edm-stochastic" in sentence and sentence in page.text
    assert page.text.index(verdict) < page.text.index("Quality against evaluations")
    assert "as good as" not in Page(make_page(made_rows()[:3])).text


def test_pairs_are_a_table_of_the_quality_section(whole):
    found = pairs_table(made_rows())
    assert (
        found.columns[0] == "Restart"
        and len(found.cells)
        == 2
        * len([r for r in made_rows() if r["kind"] == "pooled" and r["family"] == "restart" and r["by"] == "engine"])
        - 5
    )  # dpm3 was not drawn without Restart
    page = Page(whole)
    assert [list(found.columns), *map(list, found.cells)] in page.tables
    assert pairs_table([]).cells == ()


def test_markdown_tables_for_the_readme():
    rows = made_rows()
    lines = quality_table(rows, by="engine").splitlines()
    assert (
        lines[0] == "| sampler | restart [N, K, t_min, t_max] | NFE | FD of n = 4,000 samples | right class | blocks |"
    )
    assert lines[2].startswith("| train set | – | – | 2.31")
    row = next(r for r in rows if r["kind"] == "pooled" and r["sampler"] == "heun+restart" and r["nfe"] == 35)
    wanted = f"| Heun + Restart | [3, 1, 0.3, 1] | 35 | {row['fd']:.2f} ± {row['fd_block_std']:.2f} | 78.0 % | 4 |"
    assert wanted in lines
    assert not any("diffusers" in line for line in lines)
    lines = speed_table(rows).splitlines()
    row = next(r for r in rows if r["kind"] == "speed" and r["sampler"] == "heun" and r["nfe_asked"] == 35)
    assert any(line.startswith(f"| Heun | 35 | {row['samples_per_s']:.4g} (") for line in lines)
    assert len({line.count("|") for line in lines}) == 1
    assert tuned_table([*rows, *rows]).splitlines()[2:] == [
        f"| {b} | heun, 10 points, [3, 1, 0.3, 1] | {b - 1} | {7.5 + 60 / b:.2f} ± 0.50 | {8 + 70 / b:.2f} ± 0.60 "
        f"| fashion-mnist-43 | {8.4 + 80 / b:.2f} | 2 of 3 |"
        for b in (20, 43, 63)
    ]
    assert (quality_table([]), speed_table([]), tuned_table([])) == ("", "", "")
    broken = [{**r, "title": "a|b\n<c>"} for r in rows if r["kind"] == "pooled"]
    assert "| a\\|b &lt;c> |" in quality_table(broken)


def test_network_calls_are_a_column_where_they_are_not_the_nfe():
    rows = made_rows()
    same = [{**row, "network_calls": row["nfe"]} if "nfe" in row else row for row in rows]
    assert quality_table(same) == quality_table(rows)  # rows of before have none
    assert speed_table(same) == speed_table(rows)
    guided = [
        {**row, "network_calls": 49} if (row.get("sampler"), row.get("nfe")) == ("heun", 35) else row for row in same
    ]
    for table in (quality_table(guided), speed_table(guided)):
        lines = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
        place = lines[0].index("network calls")
        assert lines[0][place - 1] == "NFE"
        assert {line[place] for line in lines[2:]} == {"–", "49"}
        assert all(line[place - 1] == "35" for line in lines[2:] if line[place] == "49")
    assert "network_calls" in csv_text(guided).splitlines()[0]
    assert "& 35 & 49 &" in latex_text(guided)


def test_the_strip_has_an_arrow_at_every_jump_and_a_column_for_every_step():
    """Heun over 4 levels, with one jump from 1 to 3 where the walk arrives at 1: evaluations as the loop would ask for
    them.
    """
    from restart_sampling.experiments.report import samples as s

    sigmas = [8.0, 4.0, 4.0, 1.0, 3.0, 1.0, 1.0, 0.5, 0.5]  # 8→4, 4→1, jump to 3, 3→1, 1→0.5, the last step to 0
    images = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    visits = [s.Visit(sigma, images, images) for sigma in sigmas]
    assert s.jumps(visits) == [4]
    assert [sigmas[k] for k in s.columns(visits)] == [8, 4, 1, 3, 1, 0.5]
    figure = s.strip(visits, images)
    arrows = [a for a in figure.layout.annotations if a.showarrow]
    assert [(10**a.ay, 10**a.y) for a in arrows] == [pytest.approx((1, 3))]
    assert len(figure.layout.images) == 2 * (2 * 6 + 1)  # x and D of each column, and the sample
    assert [v for v in figure.data[0].y if v is not None] == [8, 4, 1, 3, 1, 0.5]


def test_a_recorded_run_visits_the_levels_of_the_plan():
    """The plain loop's σ, evaluation by evaluation, against the rows of the plan; a jump for each of the K repeats."""
    from restart_sampling.experiments.report import samples as s

    plan = rs.Plan.build(steps=4, restart=[3, 2, 0.1, 2.0])
    visits, x = s.record(rs.load("fashion-mnist"), plan, seeds=range(2))
    assert [v.sigma for v in visits] == pytest.approx([row.sigma for row in plan.rows])
    assert len(s.jumps(visits)) == 2
    assert x.shape == visits[0].x.shape == visits[0].D.shape == (2, 1, 28, 28)
    assert torch.allclose(visits[-1].D.double(), x, rtol=0, atol=1e-12)  # the last step goes to sigma 0, where x = D


@pytest.fixture
def results(tmp_path):
    """A folder as the commands leave it, the last row torn off by a kill."""
    folder = tmp_path / "results"
    folder.mkdir()
    for kind in KINDS:
        lines = [json.dumps(row) for row in made_rows() if row["kind"] == kind]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + '\n{"kind": "sp')
    return folder


def test_the_command_writes_the_page(results, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    code, said, err = call(capsys, "report", results, "--out", out, "--no-samples", "--title", "Mine")
    assert code == 0, err
    assert f"{len(made_rows())} rows" in said
    page = Page(out.read_text())
    assert page.text.startswith("Mine")
    assert f"restart-sampling report {results}" in page.text


def test_the_rows_of_bench_and_tune_stand_in_two_folders_by_default(results, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "report", "--no-samples")
    assert code == 2 and "there is no folder bench" in err
    results.rename(tmp_path / "bench")
    (tmp_path / "tune").mkdir()
    for kind in ("trial", "tuned"):
        (tmp_path / "bench" / f"{kind}.jsonl").rename(tmp_path / "tune" / f"{kind}.jsonl")
    code, said, err = call(capsys, "report", "--no-samples")
    assert code == 0 and f"{len(made_rows())} rows of bench, tune" in said, err
    text = Page((tmp_path / "report.html").read_text()).text
    for command in (
        "tune --budget 20,43,63 --features fashion-mnist-classifier --out tune",  # as the rows were searched
        "--n 3000 --out bench",
        "restart-sampling report bench tune",
    ):
        assert command in text
    assert "There are no rows of a search yet" not in text


def test_errors_are_one_line(results, tmp_path, capsys, monkeypatch):
    code, _, err = call(capsys, "report", tmp_path / "nothing", "--no-samples")
    assert code == 2 and err.count("\n") == 1 and "nothing" in err
    code, _, err = call(capsys, "report", results, "--no-samples", "--out", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "--out" in err
    monkeypatch.setitem(sys.modules, "plotly", None)
    code, _, err = call(capsys, "report", results, "--no-samples")
    assert code == 2 and "plotly" in err and "pip install 'restart-sampling[bench]'" in err


def test_the_readme_pictures(results, tmp_path, capsys):
    import pictures
    from PIL import Image

    assert pictures.main([str(results), str(tmp_path / "docs")]) == 0
    for name in ("quality-nfe.png", "quality-speed.png", "samples-per-second.png"):
        assert min(Image.open(tmp_path / "docs" / name).size) > 300
    (results / "speed.jsonl").unlink()
    assert pictures.main([str(results), str(tmp_path / "docs")]) == 1
    said = capsys.readouterr().err
    assert "samples-per-second.png" in said and "quality-speed.png" in said


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_every_figure_and_reports_no_error(whole, tmp_path, width):
    (tmp_path / "report.html").write_text(whole)
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},3000",
        "--enable-logging=stderr",
        "--virtual-time-budget=8000",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{tmp_path}/report.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    shown = re.findall(r'<div class="view">.*?</figure>', done.stdout, re.S)
    assert len(shown) == 8  # one in each section with a figure; the other views are hidden until chosen
    assert all("main-svg" in view for view in shown)
    assert "Share chart" not in " ".join(re.findall(r'data-title="[^"]*"', done.stdout))  # plotly's own default
