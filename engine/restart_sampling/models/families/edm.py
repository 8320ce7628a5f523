r"""EDM (arXiv 2206.00364) and PFGM++ (arXiv 2302.04265): four preconditionings around the U-Nets of `models/edm/`.

| class_name     | network is fed | default U-Net | further entries of the config |
|----------------|----------------|---------------|-------------------------------|
| `EDMPrecond`   | ln(σ)/4        | DhariwalUNet  | sigma_data, pfgmpp, D |
| `VPPrecond`    | (M−1)·t(σ)     | SongUNet      | beta_d, beta_min, M, epsilon_t |
| `VEPrecond`    | ln(σ/2)        | SongUNet      | pfgmpp, D |
| `iDDPMPrecond` | M−1−j          | DhariwalUNet  | C_1, C_2, M; of 2·C outputs the first C are F |

All four have the entries of the U-Nets, and the stored limits `sigma_min` and `sigma_max` (None: without limit), which
are used in place of recomputed ones. iDDPM's noise levels are the buffer `u` of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..edm import config, pickled
from ..edm.layers import initialize
from ..edm.networks import EDMNetwork, IDDPMNetwork, check_tensors
from ..family import Family, Pickled
from ..files.pickles.sources import SOURCES
from ..parameterization import Parameterization, edm, iddpm, ve, vp
from ..schema import Field

POSITIVE = (1e-12, 1e12)
PFGMPP = {"pfgmpp": Field("bool", False), "D": Field("int", 128, (1, 2**40))}
SIGMA_MAX = Field("float", None, POSITIVE, optional=True)
SIGMA_LIMITS = {"sigma_min": Field("float", None, (0.0, 1e12), optional=True), "sigma_max": SIGMA_MAX}


def _limits(network: EDMNetwork) -> dict[str, float]:
    """Return the noise levels that the config bounds a network to, those that are bounded."""
    return {name: network.config[name] for name in SIGMA_LIMITS if network.config[name] is not None}


def _vp(network: EDMNetwork) -> Parameterization:
    c = network.config
    return vp(c["beta_d"], c["beta_min"], c["M"], c["epsilon_t"], **_limits(network))


def _iddpm(network: IDDPMNetwork) -> Parameterization:
    return iddpm(network.u.detach().cpu().numpy(), **_limits(network))


def _family(
    class_name: str,
    fields: dict[str, Field],
    unet: str,
    parameterization: Callable[[Any], Parameterization],
    network: type[EDMNetwork] = EDMNetwork,
) -> Family:
    """Return the record of a preconditioning with its own `fields`, and the U-Net that it has by default."""
    return Family(
        class_name,
        partial(config.complete_with, fields=fields, default_unet=unet),
        network,
        parameterization,
        summary=config.summary,
        initialize=initialize,
        check_tensors=check_tensors,
        pickled=Pickled(
            "EDM or PFGM++",
            partial(pickled.config_of, own=fields, outputs=network.outputs),
            pickled.compare_blocks,
            SOURCES,
        ),
    )


FAMILIES = (
    _family(
        "EDMPrecond",
        {
            "sigma_min": Field("float", 0.0, (0.0, 1e12)),
            "sigma_max": SIGMA_MAX,
            "sigma_data": Field("float", 0.5, POSITIVE),
            **PFGMPP,
        },
        "DhariwalUNet",
        lambda network: edm(network.config["sigma_data"], **_limits(network)),
    ),
    _family(
        "VPPrecond",
        {
            **SIGMA_LIMITS,
            "beta_d": Field("float", 19.9, POSITIVE),
            "beta_min": Field("float", 0.1, (0.0, 1e12)),
            "M": Field("int", 1000, (2, 100_000)),
            "epsilon_t": Field("float", 1e-5, POSITIVE),
        },
        "SongUNet",
        _vp,
    ),
    _family(
        "VEPrecond",
        {"sigma_min": Field("float", 0.02, (0.0, 1e12)), "sigma_max": Field("float", 100.0, POSITIVE), **PFGMPP},
        "SongUNet",
        lambda network: ve(**_limits(network)),
    ),
    _family(
        "iDDPMPrecond",
        {
            **SIGMA_LIMITS,
            "C_1": Field("float", 0.001, (0.0, 1.0)),
            "C_2": Field("float", 0.008, POSITIVE),
            "M": Field("int", 1000, (2, 100_000)),
        },
        "DhariwalUNet",
        _iddpm,
        IDDPMNetwork,
    ),
)
