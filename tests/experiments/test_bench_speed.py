"""Speed rows: their arithmetic on made-up seconds, counts on runners whose operators are known. No time is asserted."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from support import problems
from support.edm_denoisers import SHAPE, denoiser

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, ConfigError
from restart_sampling.experiments.measure import against, costs, engine, memory, rows, samplers, speed, tables, timing
from restart_sampling.experiments.measure.candidate import fields
from restart_sampling.sampler.executors import Observer, observed_network
from restart_sampling.solvers.registry import SOLVERS, handling

FIELDS = {
    "kind",
    "sampler",
    "title",
    "family",
    "by",
    "nfe",
    "network_calls",
    "nfe_asked",
    "plan",
    "config",
    "restart",
    "model",
    "model_sha256",
    "dtype",
    "batch",
    "device",
    "threads",
    "torch",
    "python",
    "restart_sampling",
    "git",
    "samples_per_s",
    "samples_per_s_q1",
    "samples_per_s_q3",
    "ms_per_evaluation",
    "ms_outside_network",
    "launches_per_evaluation",
    "bytes_per_evaluation",
    "first_result_s",
    "peak_memory_mb",
    "rounds",
    "disturbed",
    "ratio",
    "rotation",
}


@pytest.fixture(autouse=True)
def one_thread():
    with timing.threads(1):
        yield


def measured(names, nfe, monkeypatch=None, seconds=None, **options):
    """Rows of candidates on an exact denoiser; `seconds` of each variant take the place of real ones."""
    if seconds is not None:

        def interleaved(variants, rounds, warm):
            for variant in variants.values():
                for _ in range(warm + rounds):
                    variant()
                variant.network_seconds[:] = [0.0] * warm + [0.25] * rounds
            made = timing.Rounds({name: [seconds[name.partition("@")[0]]] * rounds for name in variants})
            made.disturbed = 1
            return made

        monkeypatch.setattr(speed, "interleaved", interleaved)
    work = [(candidate, nfe) for candidate in samplers.select(*names)]
    options = {"batch": 4, "rounds": 2, **options}
    return speed.measure(denoiser(problems.gaussian()), "exact", work, **options)


def test_rows_have_every_field_and_go_to_the_file(tmp_path):
    heard = []
    found = measured(
        ("heun", "heun+restart", "diffusers/ddim", "torch/heun-fp32"), 9, out=tmp_path, progress=heard.append
    )
    assert [row["sampler"] for row in found] == ["heun", "heun+restart", "torch/heun-fp32", "diffusers/ddim"]
    assert rows.read(tmp_path / "speed.jsonl") == json.loads(json.dumps(found))
    for row in found:
        assert set(row) >= FIELDS
        assert row["kind"] == "speed"
        assert (row["nfe"], row["nfe_asked"], row["rounds"], row["batch"]) == (9, 9, 2, 4)
        assert row["samples_per_s_q1"] <= row["samples_per_s"] <= row["samples_per_s_q3"]
        assert row["ratio"] > 0
        assert row["first_result_s"] > 0
        assert row["peak_memory_mb"] > 4 * 16 * 4 / 1e6  # more than the samples themselves
    heun, restart, loop, _ = found
    assert rs.Plan.build(**heun["config"]).digest == heun["plan"]
    assert json.loads(restart["restart"]) == {"0": [3, 1, 0.06, 0.3]}
    assert (loop["plan"], loop["config"], loop["restart"]) == ("", {}, "")
    assert any("9 evaluations" in line for line in heard)


class Calls(Observer):
    """Counts the samples that a network is given: a call for a sample is one, or two where guidance acts."""

    parts = ("network",)

    def __init__(self):
        self.samples = 0

    def after(self, part, evaluation, F=None):
        self.samples += len(F)


@pytest.mark.parametrize(
    "options, calls",
    [
        ({}, 5),
        ({"guidance_scale": 2.0}, 10),
        ({"guidance_scale": 2.0, "guidance_interval": (0.2, 5.0)}, 7),
        ({"guidance_scale": 2.0, "guidance": "zero-star", "zero_init": 1}, 8),
    ],
    ids=str,
)
def test_rows_state_the_network_calls_that_are_made(options, calls):
    """Beside the evaluations: two where guidance acts, none where the network is left out."""
    den = denoiser(problems.gaussian(), label_dim=3)
    runner = engine.EngineRunner(den, rs.Plan.build(steps=3, **options), 4, "fp32")
    with runner.observed(counted := Calls()):
        runner.draw(range(4))
    row = fields(samplers.find("heun"), runner, den, "exact", kind="speed", nfe=9, batch=4, dtype="fp32")
    assert (row["nfe"], row["network_calls"]) == (5, calls)
    assert counted.samples == 4 * calls
    assert rows.calls_of(row) == (None if calls == 5 else calls)


@pytest.mark.parametrize("name", ["torch/heun-fp64", "diffusers/heun"])
def test_other_makers_guide_nothing(name):
    runner = samplers.find(name).runner(denoiser(problems.gaussian()), 9)
    assert runner.network_calls == runner.nfe == 9


def test_tables_show_network_calls_where_they_differ(monkeypatch):
    """And rows of before they were counted are still read."""
    found = measured(("heun", "euler"), 9, monkeypatch, {"heun": 1.0, "euler": 1.0, "torch/heun-fp64": 2.0})

    def columns(rows):
        (table,) = tables.tables(rows, "")
        return {str(column.header): list(column.cells) for column in table.columns}

    old = [{name: value for name, value in row.items() if name != "network_calls"} for row in found]
    assert "network calls" not in columns(found)
    assert columns(old) == columns(found)
    guided = [{**row, "network_calls": 14} if row["sampler"] == "heun" else row for row in found]
    assert list(columns(guided))[:3] == ["sampler", "NFE", "network calls"]
    assert columns(guided)["network calls"] == ["", "14"]  # of euler, of heun


def test_a_flow_is_measured_with_the_solvers_that_handle_it(monkeypatch):
    """On the grid of flows, without plain loops and libraries, whose state is another."""
    flow = rs.Denoiser.from_function(lambda x, t: 0.3 * x, SHAPE, sigma_min=0.0, sigma_max=1.0, process="flow")
    names = {candidate.name.removesuffix("+restart") for candidate in samplers.candidates("flow")}
    assert names == set(handling("flow"))
    monkeypatch.setattr(costs, "of", lambda *given: {})
    work = samplers.work(["cps", "heun+restart", "ode"], [11], "flow")
    found = speed.measure(flow, "flow", work, batch=2, rounds=1)
    assert {"cps", "heun+restart", "euler", "heun"} <= {row["sampler"] for row in found}
    assert {row["config"]["schedule"] for row in found} == {"flow"}
    assert all(row["ratio"] is None for row in found)
    with pytest.raises(ConfigError, match="'torch' is not known"):
        samplers.select("torch", process="flow")


def test_no_candidate_of_a_network_has_a_solver_that_does_not_handle_it():
    names = {c.name.removesuffix("+restart") for c in samplers.candidates() if c.by == "engine"}
    alone = {name for name in names if not name.startswith("preset:")}
    assert alone == set(handling("ve")) < set(SOLVERS)
    assert {"flow-grpo", "cps"} <= set(SOLVERS) - alone
    with pytest.raises(ConfigError, match="sampler 'cps' is not known"):
        samplers.find("cps")


def test_rates_and_ratios_are_those_of_the_seconds(monkeypatch):
    """dpm3 has 15 evaluations at a budget of 17, the plain loop 17: ratios are of the time of one evaluation."""
    seconds = {"heun": 2.0, "dpm3": 1.0, "torch/heun-fp64": 3.4}
    by_name = {row["sampler"]: row for row in measured(("heun", "dpm3"), 17, monkeypatch, seconds)}
    heun, dpm3 = by_name["heun"], by_name["dpm3"]
    assert (heun["nfe"], dpm3["nfe"]) == (17, 15)
    assert heun["samples_per_s"] == heun["samples_per_s_q3"] == pytest.approx(4 / 2.0)
    assert heun["ratio"] == pytest.approx(3.4 / 2.0, rel=1e-5)
    assert dpm3["ratio"] == pytest.approx((3.4 / 17) / (1.0 / 15), rel=1e-5)
    assert heun["ms_per_evaluation"] == pytest.approx(1000 * 2.0 / 17, rel=1e-5)
    assert heun["ms_outside_network"] == pytest.approx(1000 * (2.0 - 0.25) / 17, rel=1e-5)
    assert heun["disturbed"] == 1


def test_each_family_has_its_own_plain_loop(monkeypatch):
    seconds = {"edm-stochastic": 1.0, "heun+restart": 1.0, "euler": 1.0}
    seconds |= {"torch/heun-fp64": 2.0, "torch/edm-stochastic-fp64": 3.0, "torch/restart-fp64": 5.0}
    names = ("euler", "edm-stochastic", "heun+restart")
    ratio = {row["sampler"]: row["ratio"] for row in measured(names, 9, monkeypatch, seconds)}
    assert ratio == {"euler": 2.0, "edm-stochastic": 3.0, "heun+restart": 5.0}


def test_together_all_budgets_take_turns(monkeypatch):
    """One rotation of every pair and its own plain loop; else one rotation for each budget, with a name of its own."""
    seconds = {"heun": 2.0, "euler": 1.0, "torch/heun-fp64": 4.0}
    rotations, heard = [], []

    def both(together):
        with monkeypatch.context() as patch:
            measured((), 9, patch, seconds)  # puts the made-up seconds in place
            made = speed.interleaved
            patch.setattr(
                speed,
                "interleaved",
                lambda variants, *given: rotations.append(list(variants)) or made(variants, *given),
            )
            work = samplers.work(["heun@5", "heun", "euler@9"], [9])
            return speed.measure(
                denoiser(problems.gaussian()),
                "exact",
                work,
                batch=4,
                rounds=2,
                together=together,
                progress=heard.append,
            )

    found = both(True)
    assert [(row["sampler"], row["nfe_asked"]) for row in found] == [("euler", 9), ("heun", 9), ("heun", 5)]
    assert rotations == [["euler@9", "heun@9", "heun@5", "torch/heun-fp64@9", "torch/heun-fp64@5"]]
    assert len({row["rotation"] for row in found}) == 1
    assert [row["ratio"] for row in found] == pytest.approx([4.0, 2.0, 2.0])
    assert any("at most 9, 5 evaluations: 3 samplers" in line for line in heard)
    rotations.clear()
    assert len({row["rotation"] for row in both(False)}) == len(rotations) == 2


def test_what_does_not_fit_or_cannot_run_is_said_and_left_out(monkeypatch):
    heard = []
    found = measured(("heun", "heun+restart"), 5, progress=heard.append)
    assert [row["sampler"] for row in found] == ["heun"]
    assert any("heun+restart is left out: no configuration fits" in line for line in heard)
    plain = rs.Denoiser.from_function(problems.gaussian(), shape=(1, 4, 4))
    work = [(candidate, 5) for candidate in samplers.select("heun", "diffusers/ddim")]
    (row,) = speed.measure(plain, "plain", work, batch=2, rounds=1, progress=heard.append)
    assert row["ratio"] is None  # there is no plain loop either
    assert any("diffusers/ddim is left out: " in line and "'edm'" in line for line in heard)


def test_the_network_is_left_as_it_was():
    """Timing and counting observe the network; the samples are the same before and after."""
    runner = samplers.find("heun").runner(denoiser(problems.mixture((1, 4, 4))), 9)
    want = runner.draw(range(3))[0]
    inner = runner.network
    costs._cpu_launches(runner, 3, None)
    assert runner.network is inner
    assert torch.equal(runner.draw(range(3))[0], want)


class Known:
    """A runner with 7 operators of its own around each call of a network with 5; 3 evaluations."""

    nfe, plan, key = 3, None, "known"

    def __init__(self):
        self.network = self._network

    def _network(self, x, c_noise, labels):
        for _ in range(5):
            x = x * 2
        return x

    def observed(self, observer):
        return observed_network(self, observer)

    def draw(self, seeds, class_labels=None):
        x = torch.ones(len(seeds))
        for _ in range(3):
            for _ in range(4):
                x = x + 1
            x = self.network(x, None, None)
            for _ in range(3):
                x = x - 1
        return x, None


def test_launches_are_counted_outside_the_network():
    assert costs._cpu_launches(Known(), 2, None) == pytest.approx((1 + 3 * 7) / 3)  # and one `ones`


def test_the_engine_launches_two_kernels_for_an_evaluation():
    """What an evaluation adds, whatever a batch costs once: from 9 to 18 evaluations, per evaluation."""
    den = denoiser(problems.gaussian())
    total = {}
    for nfe in (9, 17):
        runner = samplers.find("heun").runner(den, nfe, batch_size=3)
        if runner.sampler.backend != "native":
            pytest.skip("the native library is not built: the reference step is many operators")
        total[nfe] = costs._cpu_launches(runner, 3, None) * nfe
    assert total[17] - total[9] == 2 * 8


def test_bytes_are_those_of_the_plan_s_rows():
    """A Heun step moves 32 bytes per element with a float32 network: x, h and F read (x and F twice), x, h and net_in
    (twice).
    """
    den = denoiser(problems.gaussian())
    moved = {}
    for nfe in (17, 19):
        runner = samplers.find("heun").runner(den, nfe)
        moved[nfe] = costs.moved_bytes(runner, batch=5) * nfe
    assert moved[19] - moved[17] == 32 * 16 * 5
    assert costs.moved_bytes(samplers.find("diffusers/ddim").runner(den, 9), 5) is None


def test_memory_is_the_most_that_lives_at_once():
    outside = torch.zeros(1000)

    def work():
        a = torch.zeros(1000)  # 4 kB
        view = a.view(10, 100)
        del a
        b = view + 1  # 8 kB
        del view
        c = torch.zeros(500)  # 6 kB
        del b
        c.add_(1)
        outside.add_(1)

    assert memory.peak_bytes(work, torch.device("cpu")) == 8000

    def views_of_others():
        return outside.view(10, 100) + 1

    assert memory.peak_bytes(views_of_others, torch.device("cpu")) == 4000


CHILD = r"""
import json, sys
settings = json.loads(sys.argv[1])
here = open("name").read().strip()
for line in sys.stdin:
    name, options = json.loads(line)
    with open(settings[0], "a") as file:
        file.write(here + (" builds" if options else "") + "\n")
    if here == "old" and options and options["solver"] == "dpm3":
        print(json.dumps({"error": "ConfigError: unknown solver"}), flush=True)
    elif here == "old" and options and options["solver"] == "euler":
        sys.exit(3)
    else:
        print(json.dumps({"seconds": 3.0 if here == "old" else 2.0, "backend": "native"}), flush=True)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout whose committed `name` is "old" and whose working tree says "new"; processes run CHILD."""
    root = tmp_path / "checkout"
    for folder in ("engine", "kernels", "bindings/csrc", "bindings/restart_bindings"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("")
    (root / "name").write_text("old")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "old"]):
        subprocess.run([*git, *command], cwd=root, check=True, capture_output=True)
    (root / "name").write_text("new")
    monkeypatch.setattr(against, "_root", lambda: root)
    monkeypatch.setattr(against, "CHILD", CHILD)
    return root


def test_two_revisions_take_turns(checkout, tmp_path):
    heard, log = [], tmp_path / "log"
    plans = [("heun", rs.Plan.build(steps=3)), ("dpm3", rs.Plan.build(solver="dpm3", steps=3))]
    (row,) = against.measure("HEAD", str(log), plans, rounds=4, batch=2, progress=heard.append)
    assert (row["sampler"], row["nfe"], row["ratio"], row["seconds"], row["seconds_old"]) == ("heun", 5, 1.5, 2.0, 3.0)
    turns = log.read_text().split("\n")[:-1]
    assert turns[:2] == ["new builds", "old builds"]
    assert turns[2:10] == ["new", "old", "old", "new", "new", "old", "old", "new"]
    assert any("dpm3 is left out, the old revision cannot run it: ConfigError" in line for line in heard)
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    assert len(listed.strip().split("\n")) == 1  # the temporary worktree is gone


def test_a_revision_that_is_not_there_or_dies(checkout, tmp_path):
    with pytest.raises(ConfigError, match="no such revision"):
        against.measure("no-such-thing", "model", [("heun", rs.Plan.build(steps=3))])
    with pytest.raises(BackendError, match="ended with status 3"):
        against.measure("HEAD", str(tmp_path / "log"), [("euler", rs.Plan.build(solver="euler", steps=3))])


def test_the_native_library_goes_along_only_where_its_sources_are_the_same(checkout, tmp_path):
    other = tmp_path / "other"
    (other / "bindings/restart_bindings").mkdir(parents=True)
    assert "not built" in against.copy_native(checkout, other, "HEAD")
    (checkout / "bindings/restart_bindings/_native_cpu.so").write_text("built")
    assert against.copy_native(checkout, other, "HEAD") == ""
    copied = other / "bindings/restart_bindings/_native_cpu.so"
    assert copied.read_text() == "built"
    copied.unlink()
    (checkout / "bindings/csrc/file").write_text("changed")
    assert "sources changed" in against.copy_native(checkout, other, "HEAD")
    assert not copied.exists()
