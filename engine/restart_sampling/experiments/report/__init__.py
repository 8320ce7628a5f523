"""The report: rows of results become one HTML page that needs no network, tables and pictures.

From rows to points that compare: `clean`, `points`, `select`. To text: `columns`, `tables`, `export`. To pictures:
`style` and `labels` for all; `figures`, `bars`, `ablation` and `tuning` for the page, `canvas` for documentation. The
page: `samples` draws images of the model, `sections` says what stands where, `page` fills `templates/`.
"""

from __future__ import annotations

from .page import make_page as make_page
from .tables import pairs_table as pairs_table
from .tables import quality_table as quality_table
from .tables import speed_table as speed_table
from .tables import tuned_table as tuned_table

__all__ = ["make_page", "pairs_table", "quality_table", "speed_table", "tuned_table"]
