r"""The presets of EDM2: its authors' 36 by their names, and the four rows of the guidance interval on its networks.

Sources: EDM2 is arXiv 2312.02696, autoguidance arXiv 2406.02507, the guidance interval arXiv 2404.07724; names, weights
and EMA lengths of the first two are those of the presets in the authors' repository. All sample alike: Heun on 32
points of EDM's grid, σ from 80 to 0.002, ρ = 7, no churn, so 63 NFE of the network and as many of the guide where it
acts. What differs is the checkpoint, its EMA length, the guide and the weight w:

| names                                        | presets | guide                                        |
|----------------------------------------------|---------|----------------------------------------------|
| edm2-img512-SIZE-{fid,dino}                  | 12      | none                                         |
| edm2-img64-SIZE-fid                          | 4       | none                                         |
| edm2-img512-SIZE-guid-{fid,dino}             | 12      | xs without classes, of the same EMA length   |
| edm2-{img512-s,img512-xxl,img512-s-uncond,img64-s}-autog-{fid,dino} | 8 | a smaller network, less trained |
| edm2-img512-{s,xxl}-interval-{fid,dino}      | 4       | as guid, in whole steps of an interval alone |

The name ends in the score that EMA length and w were chosen for, FID or the Fréchet distance of DINOv2 features; it is
the published one of 50k images. File names are those of the authors' post-hoc reconstructions, which end in the number
of training images in thousands and the EMA length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .preset import Preset

GROUP = "edm2"
NFE = 63  # 2·32 − 1
PLAN = {"steps": 32, "solver": "heun", "schedule": "edm", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
SCORES = ("fid", "dino")

# size: thousands of training images; (EMA length, score) for FID and FD_DINOv2; (EMA length, w, score) with a guide.
_IMG512: dict[str, tuple[str, tuple[tuple[str, float], ...], tuple[tuple[str, float, float], ...]]] = {
    "xs": ("2147483", (("0.135", 3.53), ("0.200", 103.39)), (("0.045", 1.4, 2.91), ("0.150", 1.7, 79.94))),
    "s": ("2147483", (("0.130", 2.56), ("0.190", 68.64)), (("0.025", 1.4, 2.23), ("0.085", 1.9, 52.32))),
    "m": ("2147483", (("0.100", 2.25), ("0.155", 58.44)), (("0.030", 1.2, 2.01), ("0.015", 2.0, 41.98))),
    "l": ("1879048", (("0.085", 2.06), ("0.155", 52.25)), (("0.015", 1.2, 1.88), ("0.035", 1.7, 38.20))),
    "xl": ("1342177", (("0.085", 1.96), ("0.155", 45.96)), (("0.020", 1.2, 1.85), ("0.030", 1.7, 35.67))),
    "xxl": ("0939524", (("0.070", 1.91), ("0.150", 42.84)), (("0.015", 1.2, 1.81), ("0.015", 1.7, 33.09))),
}
# size: thousands of training images, EMA length, FID
_IMG64 = {
    "s": ("1073741", "0.075", 1.58),
    "m": ("2147483", "0.060", 1.43),
    "l": ("1073741", "0.040", 1.33),
    "xl": ("0671088", "0.040", 1.33),
}
# network and guide without their EMA lengths; (score, w, EMA length, that of the guide) for FID and FD_DINOv2
_AUTOGUIDANCE = {
    "edm2-img512-s": (
        ("edm2-img512-s-2147483", "edm2-img512-xs-0134217"),
        ((1.34, 2.10, "0.070", "0.125"), (36.67, 2.45, "0.120", "0.165")),
    ),
    "edm2-img512-xxl": (
        ("edm2-img512-xxl-0939524", "edm2-img512-m-0268435"),
        ((1.25, 2.05, "0.075", "0.155"), (24.18, 2.30, "0.130", "0.205")),
    ),
    "edm2-img512-s-uncond": (
        ("edm2-img512-s-uncond-2147483", "edm2-img512-xs-uncond-0134217"),
        ((3.86, 2.85, "0.070", "0.110"), (90.39, 2.90, "0.090", "0.125")),
    ),
    "edm2-img64-s": (
        ("edm2-img64-s-1073741", "edm2-img64-xs-0134217"),
        ((1.01, 1.70, "0.045", "0.110"), (31.85, 2.20, "0.105", "0.175")),
    ),
}
# size: (interval, w, EMA length, score) for FID and FD_DINOv2
_INTERVAL = {
    "s": (((0.28, 2.90), 2.1, "0.025", 1.68), ((0.60, 5.00), 3.2, "0.085", 46.25)),
    "xxl": (((0.19, 1.61), 2.0, "0.015", 1.40), ((0.60, 5.00), 2.9, "0.015", 29.16)),
}


def presets() -> Iterator[Preset]:
    """Yield the presets of EDM2."""
    yield from _unguided()
    yield from _guided()
    yield from _autoguided()
    yield from _in_an_interval()


def _make(name: str, score: float, network: str, guide: str, source: str, **options: Any) -> Preset:
    """Return the preset of a name that ends in its score; files are given without their ending."""
    fid, fd = (score if name.endswith(kind) else None for kind in SCORES)
    lengths = [file.rsplit("-", 1)[1] for file in (network, guide) if file]
    note = f"EMA length {lengths[0]}" + f", that of the guide {lengths[-1]}" * bool(guide)
    files = [f"{file}.pkl" if file else "" for file in (network, guide)]
    dataset = "imagenet64" if "-img64-" in name else "imagenet512"
    return Preset(
        name, {**PLAN, **options}, NFE, fid, dataset, files[0], source, note, guide=files[1], fd_dinov2=fd, group=GROUP
    )


def _unguided() -> Iterator[Preset]:
    source = "EDM2, arXiv 2312.02696"
    for kind, end in enumerate(SCORES):
        for size, (images, alone, _) in _IMG512.items():
            length, score = alone[kind]
            yield _make(f"edm2-img512-{size}-{end}", score, f"edm2-img512-{size}-{images}-{length}", "", source)
    for size, (images, length, score) in _IMG64.items():
        yield _make(f"edm2-img64-{size}-fid", score, f"edm2-img64-{size}-{images}-{length}", "", source)


def _guided() -> Iterator[Preset]:
    source = "EDM2, arXiv 2312.02696"
    for kind, end in enumerate(SCORES):
        for size, (_, _, guided) in _IMG512.items():
            length, w, score = guided[kind]
            files = _with_guide(size, length)
            yield _make(f"edm2-img512-{size}-guid-{end}", score, *files, source, guidance_scale=w)


def _autoguided() -> Iterator[Preset]:
    source = "Autoguidance, arXiv 2406.02507"
    for name, ((network, guide), rows) in _AUTOGUIDANCE.items():
        for end, (score, w, length, other) in zip(SCORES, rows, strict=True):
            files = f"{network}-{length}", f"{guide}-{other}"
            yield _make(f"{name}-autog-{end}", score, *files, source, guidance_scale=w)


def _in_an_interval() -> Iterator[Preset]:
    source = "Guidance interval, arXiv 2404.07724"
    for size, rows in _INTERVAL.items():
        for end, (interval, w, length, score) in zip(SCORES, rows, strict=True):
            options: dict[str, Any] = {"guidance_interval": interval, "guidance_interval_rounding": "grid"}
            files = _with_guide(size, length)
            yield _make(f"edm2-img512-{size}-interval-{end}", score, *files, source, guidance_scale=w, **options)


def _with_guide(size: str, length: str) -> tuple[str, str]:
    """Return the network of a size and the guide of classifier-free guidance, both of one EMA length."""
    images = _IMG512[size][0]
    return f"edm2-img512-{size}-{images}-{length}", f"edm2-img512-xs-uncond-2147483-{length}"
