"""A published configuration as data: a plan, and the score printed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A published configuration: `Plan.build(**plan_options)` has `nfe` network evaluations per sample.

    Attributes:
        fid: the published one, of 50k images unless `note` says otherwise; None if none is printed.
        network: the checkpoint it belongs to.
        tuned: a search of this package found it; not used as a baseline for searches.
        tuned_on: the features by whose distances it was chosen, with commas between them, which therefore cannot say
            how good it is; "" if it comes from a paper.
        guide: the checkpoint of the network that guides it (`rs.load(network, guide=guide)`); "" for none.
        fd_dinov2: the published Fréchet distance of DINOv2 features, of 50k images; None if none is printed.
        group: many presets of one source have a list of their own, `restart-sampling presets GROUP`; "" for the others.
            They are no baselines for searches.
    """

    name: str
    plan_options: dict[str, Any]
    nfe: int
    fid: float | None
    dataset: str
    network: str
    source: str
    note: str = ""
    tuned: bool = False
    tuned_on: str = ""
    guide: str = ""
    fd_dinov2: float | None = None
    group: str = ""
