"""Known versions of the source text of EDM's and PFGM++'s networks, by the SHA-256 of what a checkpoint embeds.

A known text says which code wrote the file, and so which formulas it meant. It is not a signature, since any text can
be embedded in a file. The texts themselves are not here and are not needed."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where a text comes from, and the licence of the weights that were made with it."""

    title: str
    licence: str


EDM_LICENCE = "CC BY-NC-SA 4.0 (NVlabs/edm, code and published weights)"
PFGMPP_LICENCE = "that of its publisher; its code is a fork of NVlabs/edm (CC BY-NC-SA 4.0)"
UNKNOWN_LICENCE = "that of the original; ask its publisher"

SOURCES = {
    "2294828d5f59f5fd008f7141e6b8af2095918f2ce019f280a933e4779b5c3cef": Source(
        "NVlabs/edm, first version (0a2ff34)", EDM_LICENCE
    ),
    "5db27dcd96674b95c72d5e6491b879cdc35e24039ada3411b4b46a28ed1fe284": Source(
        "NVlabs/edm, since b2a26c9", EDM_LICENCE
    ),
    "9480b321710fe1785167e19738c74fe097642ae6d9edb6531a8b11908338cd5a": Source(
        "Newbeeer/pfgmpp, last version (acad8da)", PFGMPP_LICENCE
    ),
    "f1812fb668558890536a4ecb34fd7ae24c279d864a155820750b466768e06b79": Source(
        "Newbeeer/pfgmpp 4ecbd42 and Newbeeer/diffusion_restart_sampling", PFGMPP_LICENCE
    ),
}
