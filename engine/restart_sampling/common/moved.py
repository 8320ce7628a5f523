"""Old module names, which keep working for one release with a DeprecationWarning.

The modules moved into rooms in 0.2. `import restart_sampling.bench.rows` finds `restart_sampling.experiments.measure.rows`
by the table below: the longest entry that the name begins with is replaced. Both names then mean one module object, so
classes and settings are shared. The public names `restart_sampling.errors` and `restart_sampling.noise` stay, and do
not warn.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "restart_sampling"
PERMANENT = {"errors": "common.errors", "noise": "sampler.noise"}
MOVED = {
    **{name: f"common.{name}" for name in ("checks", "devices", "files", "forked", "marks", "progress_bar")},
    **{name: f"common.{name}" for name in ("strict_json", "terminal", "turns", "version")},
    **{
        name: f"plan.{name}"
        for name in ("aliases", "explain", "intervals", "limits", "presets", "rounding", "schedule")
    },
    **{name: f"models.{name}" for name in ("denoiser", "network_output", "parameterization")},
    **{
        name: f"sampler.{name}" for name in ("autobatch", "executors", "network", "pfgmpp", "program", "seeds", "table")
    },
    **{name: f"experiments.{name}" for name in ("report", "training", "tune")},
    "bench": "experiments.measure",
    "bench.images": "experiments.measure.image_cache",
    "bench.judge": "experiments.measure.evaluator",
    "bench.witnesses": "experiments.measure.agreement",
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
    "report.studies": "experiments.report.tuning",
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


def new_name(old: str) -> str | None:
    """Return the full name that the module called `old` has now, or None if it did not move.

    >>> new_name("restart_sampling.output.lock")
    'restart_sampling.jobs.lock'
    """
    package, _, rest = old.partition(".")
    if package != PACKAGE:
        return None
    if rest in PERMANENT:
        return f"{PACKAGE}.{PERMANENT[rest]}"
    parts = rest.split(".")
    for n in range(len(parts), 0, -1):
        new = MOVED.get(".".join(parts[:n]))
        if new is not None:
            return ".".join((PACKAGE, new, *parts[n:]))
    return None


class OldNames(MetaPathFinder):
    """Finds modules by their old names. It stands before Python's own finders, which would load a second copy."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        new = new_name(fullname)
        return None if new is None else ModuleSpec(fullname, _SameModule(new))


class _SameModule(Loader):
    """Gives the module that is called `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        if spec.name.removeprefix(f"{PACKAGE}.") not in PERMANENT:
            warnings.warn(
                f"{spec.name} is now {self.name}; the old name goes with the next release",
                DeprecationWarning,
                stacklevel=2,
            )
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system replaced it by the one of the old name


def keep_old_names() -> None:
    """Let the old names be found from now on; calling it again changes nothing."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
