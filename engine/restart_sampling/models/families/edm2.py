r"""EDM2 (arXiv 2312.02696): the preconditioning of EDM around the magnitude-preserving U-Net of `models/edm2/`.

The class `Precond` of the authors' files keeps no limits of its noise levels, so any level may be asked for.
"""

from __future__ import annotations

from ..edm2 import config, pickled
from ..edm2.layers import initialize
from ..edm2.networks import EDM2Network
from ..family import Family, Pickled
from ..parameterization import edm

FAMILIES = (
    Family(
        "Precond",
        config.complete_config,
        EDM2Network,
        lambda network: edm(network.config["sigma_data"]),
        summary=config.summary,
        initialize=initialize,
        pickled=Pickled("EDM2", pickled.config_of, pickled.compare_blocks, pickled.SOURCES, pickled.restored),
    ),
)
