"""Names that modules had before they moved into rooms: they go on for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest

import restart_sampling as rs
from restart_bindings.moved import new_name
from restart_sampling.common.moved import MOVED, PUBLIC

# Every module of 0.1.
NAMES = """
    aliases autobatch bench bench.against bench.claims bench.costs bench.engine bench.features bench.image_sets
    bench.images bench.judge bench.libraries bench.loops bench.plain bench.quality bench.rows bench.samplers
    bench.score bench.shipped bench.speed bench.timing bench.user_code bench.witnesses checks cli cli.bench
    cli.convert cli.generate cli.models cli.options cli.plan cli.presets cli.profile cli.report cli.score cli.status
    cli.tune cli.verify config denoiser devices errors executors executors.buckets executors.capture
    executors.chunks executors.continuous executors.eager executors.evaluation executors.graph executors.selfcheck
    executors.threads executors.while_graph explain files forked integrations integrations.comfy
    integrations.comfy.nodes integrations.comfy.register integrations.comfy.sampler integrations.diffusers
    integrations.diffusers.adapter integrations.diffusers.betas integrations.diffusers.budget
    integrations.diffusers.conditioning integrations.diffusers.flow integrations.diffusers.keys
    integrations.diffusers.network integrations.diffusers.pipeline integrations.diffusers.scheduler
    integrations.diffusers.tape integrations.k_diffusion integrations.k_diffusion.fit
    integrations.k_diffusion.levels integrations.k_diffusion.noise integrations.k_diffusion.sampling intervals
    limits marks models models.config models.dhariwal_unet models.edm models.inspection models.layers models.pickles
    models.pickles.archive models.pickles.limits models.pickles.machine models.pickles.modules
    models.pickles.networks models.pickles.sources models.pickles.tensors models.pickles.values models.registry
    models.song_unet models.weights network network_output noise output output.events output.generate output.images
    output.job output.lock output.manifest output.parts output.pipeline output.pixels output.progress
    output.ray_workers output.record output.shards output.sheets output.signals output.source output.verify
    output.workers output.writers output.writers.npz output.writers.parquet output.writers.png output.writers.wds
    parameterization parity_report pfgmpp plan presets profiling program progress_bar report report.canvas
    report.clean report.commands report.export report.figures report.labels report.page report.samples report.select
    report.series report.studies report.style report.tables report.template restart restart_text rounding sampler
    sampler_inputs schedule seeds solvers solvers.ddpm solvers.dpm2 solvers.dpm3 solvers.dpmpp_2m
    solvers.edm_stochastic solvers.euler solvers.heun solvers.process solvers.trace spans strict_json table terminal
    training training.classifier training.data training.export training.extractors training.loop training.stored
    training.train training.train_extractors tune tune.confirm tune.objective tune.pareto tune.restore tune.space
    tune.starts tune.study turns version walk
"""
BEFORE = NAMES.split()


def known(name):
    return f"restart_sampling.{name}"


@pytest.mark.parametrize("old", BEFORE)
def test_a_module_is_found_by_its_name_of_before(old):
    """It is the same object under both names, and one warning says the new name. Names that stayed do not warn."""
    new = new_name("restart_sampling", MOVED | PUBLIC, known(old)) or known(old)
    module = importlib.import_module(new)
    spec = module.__spec__
    sys.modules.pop(known(old), None) if new != known(old) else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = importlib.import_module(known(old))
    assert again is module
    assert module.__spec__ is spec
    assert spec.name == new
    said = [str(w.message) for w in caught if w.category is DeprecationWarning and "restart_sampling" in str(w.message)]
    assert said[-1:] == ([] if new == known(old) or old in PUBLIC else [f"{known(old)} is {new} since 0.1; {GOES}"])


GOES = "the old name is removed in 0.2"


def test_every_entry_of_the_table_is_of_a_module_that_was():
    assert {*MOVED, *PUBLIC} <= set(BEFORE)


@pytest.mark.parametrize("name", ["errors", "noise"])
def test_public_modules_keep_their_names_without_a_warning(name):
    code = f"import restart_sampling.{name} as m; import restart_sampling as rs; assert rs.{name} is m"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "from restart_sampling.plan import Plan",
        "from restart_sampling.sampler import Batch, Progress, Sampler, sample",
        "from restart_sampling.solvers import SOLVERS, get_solver",
        "from restart_sampling.models import EDMNetwork, build_network, load_safetensors, save_safetensors",
        "from restart_sampling.models.edm import EDMNetwork, build_network",
        "from restart_sampling.models.registry import load",
        "from restart_sampling.output.writers import Format, ShardData, Written, find",
        "from restart_sampling.models.pickles import read",
        "from restart_sampling.executors import EagerExecutor, make_executor",
        "from restart_sampling.bench.judge import judge_for",
        "from restart_sampling.tune import pareto, space, study",
        "from restart_sampling.tune.objective import Objective",
        "from restart_sampling.report import make_page",
        "from restart_sampling.cli import main",
    ],
)
def test_documented_imports_go_on(line):
    namespace: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(line, namespace)
    assert namespace.get("Plan", rs.Plan) is rs.Plan
    assert namespace.get("Sampler", rs.Sampler) is rs.Sampler


def test_what_never_was_is_still_an_import_error():
    for name in ("nothing", "bench.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(known(name))


def test_an_old_name_does_not_replace_a_public_function():
    code = (
        "import restart_sampling as rs; from restart_sampling.presets import find; assert rs.presets()[0].name and find"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
