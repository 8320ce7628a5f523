"""The report: rows of results become one HTML page that needs no network.

`select` finds what may stand in one picture, `figures` draws it, `tables` writes it out, `samples` draws images of the
model, `page` puts everything together. Rows are the flat dicts of `restart_sampling.experiments.measure.rows`.
"""

from __future__ import annotations

from .page import make_page as make_page
from .select import front as front
from .tables import pairs_table as pairs_table
from .tables import quality_table as quality_table
from .tables import speed_table as speed_table
from .tables import tuned_table as tuned_table

__all__ = ["front", "make_page", "pairs_table", "quality_table", "speed_table", "tuned_table"]
