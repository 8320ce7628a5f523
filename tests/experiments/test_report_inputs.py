"""The report on odd rows: of other models, few, broken, or not ours; and its numbers as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
import sys

import pytest
from support.commands import run as call
from support.html import Page
from support.report_rows import KINDS, made_rows
from typer.main import get_command

import restart_sampling as rs
from restart_sampling.experiments.measure import rows as rows_
from restart_sampling.experiments.report import commands, export, make_page, quality_table, select, tables, tuned_table
from restart_sampling.experiments.report.clean import LONGEST, cleaned, printable

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

OTHER = {
    "model": "runs/my model.pkl",
    "model_sha256": "feedfacebeef",
    "features": "my:Inception",
    "reference": "cifar.npz 0123456789ab",
}


# --- whose rows ----------------------------------------------------------------------------------------------------


def test_the_page_is_about_the_model_of_its_rows():
    """Title, text and commands name it, with its features and reference; nothing names the bundled model."""
    rows = [{**r, **OTHER, "best_preset": "cifar10-edm-43"} for r in made_rows()]
    text = make_page(rows, folders=["my results", "tune"])
    page = Page(text)
    assert page.text.startswith("Samplers compared: runs/my model.pkl")
    assert "fashion" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    flags = "--features my:Inception --reference cifar.npz"
    for line in (
        f"bench --model 'runs/my model.pkl' --samplers all --nfe 9,18,35,63,127 --n 3000 {flags} --out 'my results'",
        f"restart-sampling tune --model 'runs/my model.pkl' --budget 20,43,63 {flags} --out tune",
        "restart-sampling report 'my results' tune --model 'runs/my model.pkl'",
    ):
        assert line in page.text


def test_commands_are_those_of_the_package():
    """Every command that a page prints is one that the command line reads: no script, no unknown flag."""
    from restart_sampling.cli import app as cli

    app = get_command(cli.app)
    every = [*made_rows(), *({**r, **OTHER} for r in made_rows())]
    lines = [line for some in commands.commands_for(every, ["bench", "tune"]) for line in some.all()]
    assert len(lines) == 8
    for line in lines:
        program, name, *words = shlex.split(line)
        assert program == "restart-sampling"
        app.commands[name].make_context(name, words)  # raises where a flag is not known


def test_a_search_is_made_again_by_its_own_features():
    """`tune` and `bench` take other features where nothing is said; witnesses are not to be searched by."""
    judged = {"kind": "quality", "model": "fashion-mnist", "reference": "fashion-mnist test"}
    rows = [{**judged, "features": f"fashion-mnist-{name}"} for name in ("resnet", "classifier")]

    def tune(*more):
        (made,) = commands.commands_for([*rows, *more], ["rows"])
        assert "--features fashion-mnist-resnet" in made.quality[0] and "--features" not in made.quality[1]
        return made.tune

    assert "--features" not in tune()
    trial = {**rows[1], "kind": "trial"}
    assert "--features fashion-mnist-classifier --out" in tune(trial)
    assert "--features" not in tune({**trial, "features": "fashion-mnist-patches"})
    own = "--features fashion-mnist-patches --reference mine.npz"
    (line,) = (
        c.tune
        for c in commands.commands_for(
            [{**trial, "model": "m.pkl", "features": "fashion-mnist-patches", "reference": "mine.npz 0123456789ab"}],
            ["rows"],
        )
    )
    assert own in line


def test_several_models_are_told_apart():
    rows = [*made_rows(), *({**r, **OTHER} for r in made_rows())]
    page = Page(make_page(rows))
    assert page.text.startswith("Samplers compared: fashion-mnist, runs/my model.pkl")
    pairs = tables.pairs_table(rows)
    assert pairs.columns[:2] == ("model", "features") and {line[0] for line in pairs.cells} == {
        "fashion-mnist",
        OTHER["model"],
    }
    assert tables.pairs_table(made_rows()).columns[0] == "Restart"
    for group in select.quality_groups(rows):
        assert len({row["model"] for row in group.rows}) == 1


def test_features_stand_side_by_side():
    rows = [r for r in made_rows() if r["kind"] == "quality"]
    assert tables.features_table(rows).cells == ()
    more = [
        {**r, "features": "resnet", "fd": r["fd"] + 1}
        for r in rows
        if r["by"] == "engine" and r["first_seed"] < 1_002_000
    ]
    found = tables.features_table([*rows, *more])
    assert found.columns[-2:] == ("fashion-mnist-classifier (blocks)", "resnet (blocks)")
    line = next(line for line in found.cells if line[0] == "Heun" and line[2] == "35")
    values = [r["fd"] for r in rows if r["sampler"] == "heun" and r["nfe"] == 35]
    assert line[-2].startswith(f"{sum(values) / 4:.2f} ± ") and line[-2].endswith(" (4)")
    assert line[-1].startswith(f"{sum(values[:2]) / 2 + 1:.2f} ± ") and line[-1].endswith(" (2)")
    assert next(line for line in found.cells if line[0] == "diffusers Heun")[-1] == "–"
    assert "FD on resnet" in quality_table([*rows, *more]).splitlines()[0]
    assert [list(found.columns), *map(list, found.cells)] in Page(make_page([*rows, *more])).tables


def test_a_table_of_unequal_blocks_has_a_column_that_compares():
    """Heun alone has four blocks: its mean over them stands beside the one block that all share."""
    rows = [
        r for r in made_rows() if r["kind"] == "quality" and (r["first_seed"] == 1_000_000 or r["sampler"] == "heun")
    ]
    heading, _, *lines = quality_table(rows, by="engine").splitlines()
    assert "FD of one block of n = 1,000 samples | over all its blocks" in heading
    line = next(line for line in lines if line.startswith("| Heun | – | 35 |")).split(" | ")
    values = [r["fd"] for r in rows if r["sampler"] == "heun" and r["nfe"] == 35]
    assert line[3] == f"{values[0]:.2f}" and line[4].startswith(f"{sum(values) / 4:.2f} ± ")


# --- the images of the page ------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The models that the command would draw."""
    report = sys.modules["restart_sampling.cli.report"]
    from restart_sampling.experiments.report.page import Live

    asked = []
    monkeypatch.setattr(
        report, "_draw", lambda denoiser, model, notes: asked.append((model, notes)) or Live(model, notes=notes)
    )
    return asked


def folder(tmp_path, rows):
    (tmp_path / "rows").mkdir(exist_ok=True)
    (tmp_path / "rows" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows"


def test_the_images_are_of_the_model_that_was_measured(tmp_path, capsys, drawn):
    here = rs.load("fashion-mnist").info["sha256"][:12]
    some = [{**r, "model_sha256": here} for r in made_rows()[:40]]
    out = tmp_path / "page.html"
    assert call(capsys, "report", folder(tmp_path, some), "--out", out)[0] == 0
    assert drawn == [("fashion-mnist", ())]
    for rows, note in (
        (made_rows()[:40], "fashion-mnist has other weights now"),
        ([{**r, **OTHER} for r in some], "runs/my model.pkl could not be loaded, so no images of it are here"),
        ([*some, *({**r, **OTHER} for r in some)], "The rows are of 2 models; --model chooses one."),
        ([], "No row names a model"),
    ):
        assert call(capsys, "report", folder(tmp_path, rows), "--out", out)[0] == 0
        assert note in Page(out.read_text()).text
    assert len(drawn) == 1
    assert call(capsys, "report", folder(tmp_path, made_rows()[:40]), "--out", out, "--model", "fashion-mnist")[0] == 0
    assert drawn[-1][1][0].startswith("Mind that fashion-mnist has other weights now")
    code, _, err = call(capsys, "report", folder(tmp_path, some), "--out", out, "--model", "nothing.pkl")
    assert code == 2 and "nothing.pkl" in err


# --- odd sets of rows ------------------------------------------------------------------------------------------------

ODD = {
    "one sampler": lambda r: r.get("sampler") == "heun",
    "no SDE": lambda r: r.get("family") != "sde",
    "one block of 256": lambda r: r["kind"] == "quality" and r["first_seed"] == 1_000_000 and r.update(n=256) is None,
    "the training images alone": lambda r: r.get("sampler") == "train set",
    "no seeds": lambda r: r["kind"] == "quality" and r.pop("first_seed") is not None,
    "no plain fields": lambda r: (
        [r.pop(k, 0) for k in ("title", "family", "by", "model", "model_sha256", "features", "device")] != []
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_pages_of_odd_rows(name):
    rows = [dict(r) for r in made_rows()]
    rows = [r for r in rows if ODD[name](r)]
    assert rows
    page = Page(make_page(rows))
    assert page.open == []
    assert "is as good as" not in page.text  # of a claim, which none of these allows
    if name == "one block of 256":
        assert "too little to tell, 1 block of 256 samples" in page.text


# --- rows that are broken, or not ours
# ---------------------------------------------------------------------------------

SURROGATE = "x\ud800y"
BAD = (
    SURROGATE,
    math.inf,
    -math.inf,
    math.nan,
    10**400,
    -1,
    True,
    None,
    [],
    {},
    [[["x"]]],
    {"a": SURROGATE},
    "inf",
    "x" * 5000,
    "\x1b[31m",
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_field_may_be_anything(kind):
    """Each field of a row of each kind is replaced by each wrong value, one at a time: there is still a page."""
    row = next(r for r in made_rows() if r["kind"] == kind)
    some = [r for r in made_rows() if r["kind"] == kind][:6]
    broken = [{**row, name: value} for name in row if name != "kind" for value in BAD]
    text = make_page([*some, *broken, {**row, "kind": SURROGATE}, {**row, "kind": []}, [], None, 5, "x", {}])
    text.encode()
    page = Page(text)
    assert page.open == []
    assert "\x1b" not in text and "x" * (LONGEST + 1) not in text
    assert "rows left out: not written by bench or tune." in page.text
    for table in (quality_table, tuned_table):
        table(cleaned([*some, *broken])[0]).encode()
    export.csv_text(broken).encode()
    export.latex_text(broken).encode()


def test_what_is_left_out_is_counted_with_the_reason():
    rows = [r for r in made_rows() if r["kind"] == "quality"][:3]
    rows += [{**rows[0], "nfe": "x"}, {**rows[0], "nfe": "y"}, {"time": 3, "event": "shard"}, 7]
    kept, why = cleaned(rows)
    assert kept == rows[:3]
    assert why == [
        "2 rows left out: kind quality without a usable nfe.",
        "1 row left out: not written by bench or tune.",
        "1 row left out: not an object.",
    ]
    assert cleaned(made_rows())[1] == []
    assert cleaned(made_rows())[0] == [{k: v for k, v in r.items() if v is not None} for r in made_rows()]


def test_text_that_can_be_printed():
    assert printable("a\ud800b\x07\nc") == "a?b  c"
    assert printable("é – σ") == "é – σ"
    assert printable("x" * 500) == "x" * (LONGEST - 1) + "…"


def test_rows_nested_without_end_are_named(tmp_path):
    path = tmp_path / "speed.jsonl"
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.warns(UserWarning, match="line 1"):
        assert rows_.read(path) == []


def test_a_title_that_is_no_text(tmp_path, capsys):
    out = tmp_path / "page.html"
    code, _, err = call(
        capsys, "report", folder(tmp_path, made_rows()[:9]), "--no-samples", "--out", out, "--title", SURROGATE
    )
    assert code == 0, err
    assert Page(out.read_text()).text.startswith("x?y")


def test_old_rows_of_a_search_still_read(tmp_path):
    """ "python" held the plan's source before; now it is the version, and the source is "code"."""
    path = tmp_path / "tune.jsonl"
    rows_.append(path, {"kind": "tuned", "python": "rs.Plan.build(steps=5)"})
    rows_.append(path, {"kind": "tuned", "python": "3.11.7", "code": "rs.Plan.build(steps=6)"})
    old, new = rows_.read(path)
    assert old == {"kind": "tuned", "code": "rs.Plan.build(steps=5)"}
    assert (new["python"], new["code"]) == ("3.11.7", "rs.Plan.build(steps=6)")


# --- numbers for other programs
# ----------------------------------------------------------------------------------------


def test_the_csv_has_every_point_at_full_precision(tmp_path, capsys):
    out = tmp_path / "new" / "points.csv"
    code, said, err = call(capsys, "report", folder(tmp_path, made_rows()), "--csv", out)
    assert code == 0, err
    assert not (tmp_path / "report.html").exists() and "points of" in said
    lines = list(csv.DictReader(io.StringIO(out.read_text())))
    row = next(r for r in made_rows() if r["kind"] == "speed" and r["sampler"] == "heun" and r["nfe_asked"] == 35)
    (line,) = [x for x in lines if x["point"] == "speed" and x["sampler"] == "heun" and x["nfe_asked"] == "35"]
    assert float(line["samples_per_s"]) == row["samples_per_s"] and line["rotation"] == ""
    values = [r["fd"] for r in made_rows() if r["kind"] == "quality" and r["sampler"] == "heun" and r["nfe"] == 35]
    (line,) = [
        x for x in lines if x["point"] == "distance" and x["sampler"] == "heun" and x["nfe"] == "35" and x["n_block"]
    ]
    assert float(line["fd"]) == pytest.approx(sum(values) / 4, rel=1e-14)
    assert (line["blocks"], line["seeds"], line["restart"]) == ("4", "1000000-1003999", "")
    assert {x["experiment"] for x in lines if x["point"] == "ablation"} == {"K", "N_main", "interval"}


def test_a_spreadsheet_runs_nothing_of_the_csv():
    rows = [{**r, "title": '=HYPERLINK("http://x")', "git": "@x"} for r in made_rows()[:5]]
    for line in csv.DictReader(io.StringIO(export.csv_text(rows))):
        assert line["title"] == '\'=HYPERLINK("http://x")' and line["git"] == "'@x"


def test_latex_tables_are_whole_and_escaped(tmp_path, capsys):
    out = tmp_path / "tables.tex"
    rows = [{**r, "title": "50 % & $x_1$ \\input{y}"} if r.get("sampler") == "heun" else r for r in made_rows()]
    code, said, err = call(capsys, "report", folder(tmp_path, rows), "--latex", out)
    assert code == 0 and "tables of" in said, err
    text = out.read_text()
    assert r"50 \% \& \$x\_1\$ \textbackslash{}input\{y\}" in text
    for begun in ("table", "tabular"):
        assert text.count(rf"\begin{{{begun}}}") == text.count(rf"\end{{{begun}}}") >= 3
    for some in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", some)[1])
        body = some.split(r"\toprule")[1].split(r"\bottomrule")[0]
        for line in body.replace(r"\midrule", "").strip().splitlines():
            if line:
                assert len(re.findall(r"(?<!\\)&", line)) == columns - 1 and line.endswith(r"\\")
    value = next(r for r in made_rows() if r["kind"] == "pooled" and r["sampler"] == "heun+restart" and r["nfe"] == 35)
    assert f"Heun + Restart & [3, 1, 0.3, 1] & 35 & {value['fd']:.4g} $\\pm$ {value['fd_block_std']:.4g}" in text


def test_page_and_numbers_in_one_command(tmp_path, capsys):
    names = [tmp_path / name for name in ("p.html", "p.csv", "p.tex")]
    code, _, err = call(
        capsys,
        "report",
        folder(tmp_path, made_rows()),
        "--no-samples",
        "--out",
        names[0],
        "--csv",
        names[1],
        "--latex",
        names[2],
    )
    assert code == 0 and all(name.stat().st_size > 1000 for name in names), err
    code, _, err = call(capsys, "report", folder(tmp_path, made_rows()), "--csv", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "report.csv" in err


def test_a_folder_without_rows_is_named(tmp_path, capsys):
    code, _, err = call(capsys, "report", tmp_path, "--csv", tmp_path / "points.csv")
    assert code == 0
    assert f"note: there are no rows in {tmp_path}; `restart-sampling bench --out {tmp_path}` writes some" in err
