"""Where the coefficients of scheme philox-v1 come from, and how accurate its normals are.

    python benchmarks/fit_philox_v1.py

Prints the minimax fits of ln, sin and cos with coefficients rounded to float32 (they must equal those in
restart_kernels/philox/coefficients.py, which are frozen), then the errors against float64 on the same float32 u:
of r over every u there is (83 million), of the normals over random angles with the tail oversampled.

The fit is Lawson's iteratively reweighted least squares on a Chebyshev grid. Coefficients are rounded one at a
time from the lowest power and the rest refitted, so each rounding error is absorbed by the powers above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from restart_kernels.philox import coefficients as c
from restart_kernels.philox.reference import box_muller

Array = NDArray[np.float64]


def lawson(basis: Array, target: Array, weight: Array, iterations: int = 400) -> tuple[float, Array]:
    """Return the least max |weight·(basis·a − target)|, and the coefficients a that reach it."""
    share = np.full(len(target), 1.0 / len(target))
    best = (math.inf, np.zeros(basis.shape[1]))
    for _ in range(iterations):
        scale = np.sqrt(share) * weight
        a = np.linalg.lstsq(basis * scale[:, None], target * scale, rcond=None)[0]
        error = np.abs(weight * (basis @ a - target))
        if error.max() < best[0]:
            best = (float(error.max()), a)
        share *= error + 1e-3 * error.max()
        share /= share.sum()
    return best


def fit(x: Array, target: Array, degree: int, weight: Array, fixed: tuple[float, ...] = ()) -> tuple[Array, float]:
    """Return float32 coefficients of a polynomial, lowest power first, and its weighted error; `fixed` ones stay."""
    a, scale = list(fixed), float(np.abs(x).max())
    while len(a) <= degree:
        rest = target - sum(v * x**k for k, v in enumerate(a))
        basis = np.stack([(x / scale) ** k for k in range(len(a), degree + 1)], axis=1)
        a.append(float(np.float32(lawson(basis, rest, weight)[1][0] / scale ** len(a))))
    error = np.abs(weight * (target - sum(v * x**k for k, v in enumerate(a))))
    return np.array(a), float(error.max())


def chebyshev(low: float, high: float, n: int = 4001) -> Array:
    """Return n Chebyshev points between low and high."""
    return (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def fits() -> Iterator[tuple[str, Array, float, tuple[float, ...]]]:
    """Yield (name, coefficients, error, coefficients in use) of each polynomial."""
    f = chebyshev(1 - math.sqrt(2), 1 - math.sqrt(0.5))
    square = -2 * np.log1p(-f)  # -2 ln m; at its smallest r² is this for f ≥ 0 and 2 ln 2 more for f < 0
    smallest = np.where(f >= 0, square, square + 2 * math.log(2))
    # Between the relative error of r² (power 1) and the absolute error of the normal (power 1/2).
    yield ("LN", *fit(f, square / f, 8, f / smallest**0.75, (2.0,)), c.LN)
    t = 0.125 * np.cos(np.pi * (np.arange(2001) + 0.5) / 4001)
    yield ("SIN", *fit(t * t, np.sin(2 * np.pi * t) / t, 3, t), c.SIN)
    yield ("COS", *fit(t * t, np.cos(2 * np.pi * t), 4, np.ones_like(t), (1.0,)), c.COS)


def every_u() -> Iterator[torch.Tensor]:
    """Yield one word for each distinct fp32(word), in pieces."""
    piece = 1 << 21
    for first in range(0, 1 << 24, piece):
        yield torch.arange(first, first + piece)
    for exponent in range(24, 32):
        for first in range(0, 1 << 23, piece):
            yield (1 << exponent) + (1 << (exponent - 23)) * torch.arange(first, first + piece)
    yield torch.tensor([2**32 - 1])


def exact(wa: torch.Tensor, wb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (r cos, r sin) in float64, from the float32 u."""
    u = (wa.to(torch.float32) * c.U_SCALE + c.U_SHIFT).double()
    r = torch.sqrt(-2 * torch.where(u < 0.5, torch.log(u), torch.log1p(u - 1)))
    # The fraction of the turn first: cos of an angle near a multiple of pi/2 keeps its relative accuracy.
    angle = 2 * math.pi * wb.double() * 2.0**-32
    return r * angle.cos(), r * angle.sin()


def main() -> None:
    for name, a, error, used in fits():
        print(f"{name}: error {error:.1e}, {'as in' if tuple(a) == used else 'NOT as in'} coefficients.py", a.tolist())
    absolute = relative = 0.0
    for words in every_u():
        zero = torch.zeros_like(words)  # angle 0: the first normal is r itself
        r, e = box_muller(words, zero)[0].double(), exact(words, zero)[0]
        absolute = max(absolute, float((r - e).abs().max()))
        relative = max(relative, float(((r - e).abs() / e.clamp(min=1e-30)).max()))
    print(f"r over every u: max error {absolute:.2e}, relative {relative:.2e}")
    generator, n, worst = torch.Generator().manual_seed(0), 1 << 20, 0.0
    for turn in range(100):
        wa = torch.randint(0, 4096, (n,), generator=generator)
        if turn % 2:
            wa = torch.exp2(32 * torch.rand(n, generator=generator, dtype=torch.float64)).long().clamp(max=2**32 - 1)
        wb = torch.randint(0, 2**32, (n,), generator=generator)
        for z, e in zip(box_muller(wa, wb), exact(wa, wb), strict=True):
            worst = max(worst, float((z - e).abs().max()))
    print(f"normals, {100 * n:,} pairs, tail oversampled: max error {worst:.2e}")


if __name__ == "__main__":
    main()
