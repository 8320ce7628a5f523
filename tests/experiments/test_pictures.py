"""Pictures: one palette and one marker for each family in all of them; unlike things never side by side."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path

import pytest
from support.report_rows import made_rows

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

from restart_sampling.experiments.report import ablation, bars, canvas, figures, labels, select, style, tuning
from restart_sampling.experiments.report.series import series_of

ROOT = Path(__file__).resolve().parents[2]
DRAWING = [
    path
    for folder in ("engine", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"matplotlib|plotly|canvas|report\.style|from \.style", path.read_text())
]
ALLOWED = {"style.py"}  # where the looks are, and the page's own text and frames
LOOKS = (
    "color",
    "colors",
    "facecolor",
    "edgecolor",
    "markerfacecolor",
    "marker",
    "symbol",
    "fmt",
    "hatch",
    "cmap",
    "colorscale",
)
PLAIN = {"white", "none", "", " ", "bar"}  # a frame or a filling that is no family's


def literals(path):
    """(line, what) of each colour or marker that a file names by itself, as an argument or as a key of a dictionary."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        named = []
        if isinstance(node, ast.Call):
            named = [(word.arg, word.value) for word in node.keywords]
        elif isinstance(node, ast.Dict):
            named = [(getattr(k, "value", None), v) for k, v in zip(node.keys, node.values, strict=True)]
        for name, value in named:
            for part in ast.walk(value) if name in LOOKS else ():
                if isinstance(part, (ast.Subscript, ast.Call, ast.Dict)):
                    break
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value not in PLAIN:
                    found.append((node.lineno, name, part.value))
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"#[0-9a-fA-F]{3,8}", node.value)
        ):
            found.append((node.lineno, "colour", node.value))
    return found


def test_all_code_that_draws_takes_its_looks_from_one_module():
    names = {path.name for path in DRAWING}
    assert {"figures.py", "tuning.py", "ablation.py", "samples.py", "canvas.py", "pictures.py", "ablations.py"} <= names
    assert {"synthetic_curves.py", "synthetic_mixture.py"} <= names
    for path in DRAWING:
        if path.name not in ALLOWED:
            own = [found for found in literals(path) if found[2] != "circle-open"]  # of the legend's hollow marker
            if path.name == "canvas.py":
                own = [found for found in own if found[1:] != ("marker", "o")]
            assert own == [], f"{path.relative_to(ROOT)}: colours and markers belong into report/style.py"


def test_the_walk_finds_what_it_looks_for(tmp_path):
    (tmp_path / "x.py").write_text(
        'plot(x, color="red")\nbar(marker={"symbol": "star"})\nc = "#12ab34"\nplot(color=colour("ode"))\n'
    )
    assert [what for *_, what in literals(tmp_path / "x.py")] == ["red", "#12ab34", "star"]


def test_families_differ_in_colour_and_marker():
    for name in ("colour", "symbol", "marker"):
        assert len({getattr(look, name) for look in style.LOOKS.values()}) == len(style.LOOKS)


def families_of(figure):
    """(family that the trace's colour says, marker symbols, name) of the traces of a figure that stand for samplers."""
    by_colour = {look.colour: family for family, look in style.LOOKS.items()}
    for trace in figure.data:
        colour = getattr(trace.marker, "color", None)
        colour = colour[0] if isinstance(colour, (tuple, list)) else colour
        symbols = getattr(trace.marker, "symbol", None)
        if colour in by_colour and symbols is not None and not (trace.name or "").startswith(("front", style.HOLLOW)):
            yield by_colour[colour], {symbols} if isinstance(symbols, str) else set(symbols), trace.name


def made_figures():
    rows = made_rows()
    group = select.quality_groups(rows)[0]
    speed = select.groups(select.speed_at_quality(rows), select.SPEED_QUALITY_GROUP)[0]
    trials, tuned = ([r for r in rows if r["kind"] == kind] for kind in ("trial", "tuned"))
    yield figures.pareto(group.rows, select.train_row(rows, group))
    yield figures.speed_quality(speed.rows)
    yield tuning.interactive(trials, tuned)
    points = select.ablation_points(rows)
    yield ablation.ablation("K", [p for p in points if p["experiment"] == "K"])


def test_every_trace_has_the_marker_of_its_colour():
    """Whatever figure: what is blue is round, what is orange is square, what is green is a diamond; hollow or full."""
    seen = set()
    for figure in made_figures():
        for family, symbols, _ in families_of(figure):
            seen.add(family)
            assert {symbol.removesuffix("-open") for symbol in symbols} == {style.LOOKS[family].symbol}
    assert seen == {"ode", "sde", "restart"}


def test_in_the_tuning_picture_heun_is_an_ode_and_what_is_tuned_is_what_it_is():
    tuned = [r for r in made_rows() if r["kind"] == "tuned"]
    found = {(p.role, p.family) for _, p in tuning.confirmed(tuned)}
    assert found == {("Heun", "ode"), ("best preset", "restart"), ("tuned", "restart")}
    plain = [{**r, "restart": "", "config": {"solver": "heun"}} for r in tuned]
    assert ("tuned", "ode") in {(p.role, p.family) for _, p in tuning.confirmed(plain)}


def test_trials_and_what_was_measured_again_have_a_panel_each():
    """They are of other seeds, and often of another number of them."""
    trials, tuned = ([r for r in made_rows() if r["kind"] == kind] for kind in ("trial", "tuned"))
    figure = tuning.interactive(trials, tuned)
    axes = {trace.xaxis: set() for trace in figure.data}
    for trace in figure.data:
        axes[trace.xaxis].add(trace.name.split(",")[0])
    assert {frozenset(names) for names in axes.values()} == {
        frozenset({"trials", "front of the trials"}),
        frozenset({"fresh seeds"}),
    }
    titles = [a.text for a in figure.layout.annotations if "seeds" in a.text]
    assert titles == [
        "the search, n = 1,000, the same seeds for all",
        "measured again, 3 blocks of n = 1,000 fresh seeds",
    ]
    assert len(tuning.interactive(trials, []).layout.annotations) == 1
    assert len(tuning.interactive([], tuned).data) == 2


def test_a_distance_of_one_block_is_hollow_and_the_legend_says_so():
    rows = [r for r in made_rows() if r["kind"] == "quality" and r["first_seed"] == 1_000_000]
    points = select.quality_groups(rows)[0].rows
    figure = figures.pareto(points, None)
    for _, symbols, _ in families_of(figure):
        assert all(symbol.endswith("-open") for symbol in symbols)
    assert style.HOLLOW in [trace.name for trace in figure.data]
    several = select.quality_groups([r for r in made_rows() if r["kind"] == "quality"])[0].rows
    assert style.HOLLOW not in [trace.name for trace in figures.pareto(several, None).data]


def test_disturbed_speeds_are_pale_and_say_so():
    rows = [{**r, "disturbed": 2 if r["sampler"] == "heun" else 0} for r in made_rows() if r["kind"] == "speed"]
    group = select.groups(select.speed_rows(rows), (*select.SPEED_GROUP, "nfe_asked"))[0]
    found = {}
    for trace in bars.speed_bars(group.rows).data:
        found |= dict(zip(trace.y, trace.marker.opacity, strict=True))
    pale = [name for name, opacity in found.items() if opacity == style.DISTURBED]
    assert pale == [name for name in found if name.startswith("Heun (")]
    assert all(name.endswith("2 of 5 rounds disturbed") for name in pale) and pale
    assert style.disturbed({"disturbed": 0, "rounds": 5}) == "" == style.disturbed({})


def test_every_set_of_features_has_a_panel(tmp_path):
    """All samplers on the blocks they share; then for each set of features those with the most blocks."""
    import pictures

    rows = [r for r in made_rows() if r["kind"] == "quality"]
    rows = [r for r in rows if r["first_seed"] == 1_000_000 or r["sampler"] in ("heun", "ddpm")]
    rows += [{**r, "features": name} for name in ("resnet", "autoencoder") for r in rows if r["by"] == "engine"]
    found = select.panels(select.quality_groups(rows))
    assert [(g.rows[0]["features"], g.rows[0]["blocks"]) for g in found] == [
        ("fashion-mnist-classifier", 1),
        ("fashion-mnist-classifier", 4),
        ("autoencoder", 4),
        ("resnet", 4),
    ]
    assert pictures.quality(rows, tmp_path / "quality.png")


def test_points_of_other_intervals_are_not_joined():
    common = {"by": "engine", "sampler": "heun+restart", "title": "Heun + Restart", "family": "restart", "fd": 3.0}
    rows = [
        {**common, "nfe": 43, "restart": "[3, 2, 0.06, 0.3]"},
        {**common, "nfe": 63, "restart": "[3, 3, 0.3, 1]"},
        {**common, "nfe": 43, "restart": "[3, 2, 0.3, 1]"},
    ]
    assert {s.name: [r["nfe"] for r in s.rows] for s in series_of(rows)} == {
        "Heun + Restart, 0.06–0.3": [43],
        "Heun + Restart, 0.3–1": [43, 63],
    }
    assert [s.name for s in series_of(rows[1:])] == ["Heun + Restart"]


def test_names_stand_beside_their_points_and_not_on_each_other():
    series = [[(50.0, 50.0)], [(60.0, 50.0)], [(55.0, 55.0), (150.0, 80.0)], []]
    found = labels.place(series, [40, 40, 60, 10], 12, (200, 100), rings=(1, 3))
    boxes = []
    for points, width, label in zip(series, [40, 40, 60], found, strict=False):
        box = labels._box(points[label.point], width, 12, *labels.POSITIONS[label.position], 7 * label.ring)
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 200 and box[3] <= 100
        assert labels._shared(labels._boxes([box]), labels._boxes(boxes)) == 0
        boxes.append(box)
    assert found[3] is None
    crowd = labels.place([[(5.0, 5.0)], [(5.0, 5.0)]], [300, 300], 12, (10, 10))
    assert not any(label.clear for label in crowd)


def test_leader_lines_lie_under_all_names():
    """Many samplers at one point: some names stand at a distance, and no line strikes another name through."""
    rows = [{"sampler": f"sampler {n}", "family": "ode", "by": "engine", "nfe": 35, "fd": 3.0} for n in range(12)]
    with canvas.drawing():
        _, axes = canvas.figure(3)
        axes.set(xlim=(10, 60), ylim=(1, 5))
        canvas.name(axes, series_of(rows), "nfe")
    leaders = [text for text in axes.texts if text.arrow_patch is not None]
    names = [text for text in axes.texts if text.arrow_patch is None]
    assert sorted(text.get_text() for text in names) == sorted(row["sampler"] for row in rows)
    assert leaders and all(text.get_alpha() == 0 for text in leaders)
    assert max(text.zorder for text in leaders) < min(text.zorder for text in names)
    assert all(text.get_path_effects() for text in names)


def test_bars_begin_at_zero():
    """In the report's page and in the README's picture, whose axis is set."""
    group = select.groups(select.speed_rows(made_rows()), (*select.SPEED_GROUP, "nfe_asked"))[0]
    assert {axis.rangemode for axis in bars.speed_bars(group.rows).select_xaxes()} == {"tozero"}
    for path in (ROOT / "benchmarks").glob("*.py"):
        text = path.read_text()
        if re.search(r"\.barh\(", text):
            assert "xlim=(0, None)" in text, path
        if re.search(r"\.bar\(", text):
            assert "set_ylim(0, " in text, path
        assert "set_ylim(bottom=" not in text, path


def test_matplotlib_pictures_have_the_looks_too():
    """A family's points as matplotlib has them: colour, marker, and no filling where there is no bar."""
    with canvas.drawing():
        _, axes = canvas.figure(2)
        canvas.points(axes, [1, 2], [3.0, 4.0], "sde", yerr=[0.5, None])
    first, *hollow = [line for line in axes.lines if line.get_marker() == style.LOOKS["sde"].marker]
    assert first.get_color() == style.LOOKS["sde"].colour
    assert [(line.get_markerfacecolor(), list(line.get_xdata())) for line in hollow] == [("white", [2])]


def test_the_search_picture_is_drawn_from_rows(tmp_path):
    from PIL import Image

    rows = made_rows()
    trials, tuned = ([r for r in rows if r["kind"] == kind] for kind in ("trial", "tuned"))
    for again in (tuned, []):
        file = io.BytesIO()
        tuning.write_png(trials, again, "a title", file)
        assert min(Image.open(file).size) > 500
