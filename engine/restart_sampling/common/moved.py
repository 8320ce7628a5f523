"""Names that modules had before they moved into rooms. They go on for one release, with a DeprecationWarning.

`import restart_sampling.bench.rows` gives `restart_sampling.experiments.measure.rows`: the longest entry of the table
that a name begins with is replaced. The public names `restart_sampling.errors` and `restart_sampling.noise` stay, and
do not warn.
"""

from __future__ import annotations

from restart_bindings import moved

PUBLIC = {"errors": "common.errors", "noise": "sampler.noise"}
MOVED = {
    **{name: f"common.{name}" for name in ("checks", "devices", "files", "forked", "marks", "progress_bar")},
    **{name: f"common.{name}" for name in ("strict_json", "terminal", "turns", "version")},
    **{name: f"plan.{name}" for name in ("explain", "intervals", "limits", "presets", "rounding", "schedule")},
    **{name: f"models.{name}" for name in ("denoiser", "network_output", "parameterization")},
    **{
        name: f"sampler.{name}" for name in ("autobatch", "executors", "network", "pfgmpp", "program", "seeds", "table")
    },
    **{name: f"experiments.{name}" for name in ("report", "training", "tune")},
    "bench": "experiments.measure",
    "bench.images": "experiments.measure.image_cache",
    "bench.judge": "experiments.measure.evaluator",
    "bench.witnesses": "experiments.measure.agreement",
    "aliases": "plan.notation",
    "config": "plan.options",
    "models.config": "models.edm.config",
    "models.dhariwal_unet": "models.edm.dhariwal_unet",
    "models.layers": "models.edm.layers",
    "models.pickles": "models.files.pickles",
    "models.song_unet": "models.edm.song_unet",
    "models.weights": "models.files.weights",
    "output": "jobs",
    "output.images": "common.images",
    "output.writers": "jobs.formats",
    "parity_report": "sampler.parity",
    "profiling": "experiments.profile",
    "report.studies": "experiments.report.ablation",
    "report.template": "experiments.report.page",
    "restart": "plan.notation",
    "restart_text": "plan.text",
    "sampler_inputs": "sampler.inputs",
    "spans": "plan.segments",
    "walk": "plan.trajectory",
    "training.data": "experiments.datasets",
    "training.extractors": "experiments.measure.extractors",
    "training.stored": "experiments.measure.extractor_files",
}


def keep_old_names(package: str) -> None:
    """Let the old names be imported from now on."""
    moved.keep_old_names(package, MOVED | PUBLIC, since="0.1", until="0.2", public=PUBLIC)
