"""The columns and flags of the history registers, and the flags of guidance methods, for code that goes over them.

The numbers are those of `layout.py`, which C++ gets as they are; these tuples are for Python alone.
"""

from __future__ import annotations

from . import layout as L

# Of h, h2 and h3: weight in y, weight in g, READ bit, STORE bit.
HISTORY = (
    (L.Y_H, L.G_H, L.READ_H, L.STORE_H),
    (L.Y_H2, L.G_H2, L.READ_H2, L.STORE_H2),
    (L.Y_H3, L.G_H3, L.READ_H3, L.STORE_H3),
)
METHODS = L.RESCALE | L.ZERO_STAR | L.APG  # of guidance that weighs whole samples, see row/weights.py
