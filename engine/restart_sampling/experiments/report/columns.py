"""A table as text, and the columns of the tables on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..measure.rows import calls_of
from .points import is_train
from .select import Row
from .series import intervals_of, title_of
from .style import family_of, number

Column = tuple[str, Callable[[Any], Any]]  # a title, and what stands there for a row
CALLS: Column = ("network calls", calls_of)  # only where they are not the NFE


@dataclass(frozen=True)
class Table:
    """A table as text: column titles, then the cells of each line."""

    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, with cells that cannot break it."""
        lines = ["| " + " | ".join(map(_cell, line)) + " |" for line in (self.columns, *self.cells)]
        return "\n".join([lines[0], "|" + "---|" * len(self.columns), *lines[1:]])


def table(rows: Iterable[Any], columns: Sequence[Column]) -> Table:
    """Return the table of `rows`, without the columns that are empty in all of them."""
    lines = [[number(value(row)) for _, value in columns] for row in rows]
    filled = [i for i in range(len(columns)) if any(line[i] != "–" for line in lines)]
    return Table(tuple(columns[i][0] for i in filled), tuple(tuple(line[i] for i in filled) for line in lines))


def field(name: str) -> Callable[[Row], Any]:
    """Return a function that takes one field of a row."""
    return lambda row: row.get(name)


def plus_minus(name: str, std: str) -> Callable[[Row], str]:
    """Return a function that writes a row's value as "8.13 ± 0.10", or alone if its spread is not known."""

    def shown(row: Row) -> str:
        value, spread = row.get(name), row.get(std)
        return number(value) if spread is None or spread == "" else f"{number(value)} ± {number(spread)}"

    return shown


def _cell(value: str) -> str:
    return value.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _configured(name: str) -> Callable[[Row], Any]:
    """Return a function that takes one option of a row's plan."""
    return lambda row: (row.get("config") or {}).get(name)


QUALITY: tuple[Column, ...] = (
    ("sampler", title_of),
    ("family", lambda row: "" if is_train(row) else family_of(row)),
    ("by", field("by")),
    ("NFE", field("nfe")),
    CALLS,
    ("restart [N, K, t_min, t_max]", intervals_of),
    ("n", field("n")),
    ("blocks", field("blocks")),
    ("seeds", field("seeds")),
    ("FD", plus_minus("fd", "std")),
    ("KID", plus_minus("kid", "kid_std")),
    ("precision", field("precision")),
    ("recall", field("recall")),
    ("density", field("density")),
    ("coverage", field("coverage")),
    ("accuracy", field("accuracy")),
    ("plan", field("plan")),
    ("git", field("git")),
)
SPEED: tuple[Column, ...] = (
    ("sampler", title_of),
    ("by", field("by")),
    ("NFE", field("nfe")),
    CALLS,
    ("budget", field("nfe_asked")),
    ("samples/s", field("samples_per_s")),
    ("q1", field("samples_per_s_q1")),
    ("q3", field("samples_per_s_q3")),
    ("ratio to the fp64 loop", field("ratio")),
    ("ms per evaluation", field("ms_per_evaluation")),
    ("ms outside the network", field("ms_outside_network")),
    ("launches outside", field("launches_per_evaluation")),
    ("bytes outside", field("bytes_per_evaluation")),
    ("first result, s", field("first_result_s")),
    ("peak memory, MB", field("peak_memory_mb")),
    ("rounds", field("rounds")),
    ("disturbed", field("disturbed")),
    ("git", field("git")),
)
AT_QUALITY: tuple[Column, ...] = (
    ("sampler", title_of),
    ("by", field("by")),
    ("NFE", field("nfe")),
    CALLS,
    ("FD", plus_minus("fd", "std")),
    ("samples/s", field("samples_per_s")),
    ("q1", field("samples_per_s_q1")),
    ("q3", field("samples_per_s_q3")),
    ("n", field("n")),
    ("seeds", field("seeds")),
)
ENSEMBLES: tuple[Column, ...] = (
    ("sampler", title_of),
    ("family", family_of),
    ("NFE", field("nfe")),
    CALLS,
    ("restart [N, K, t_min, t_max]", intervals_of),
    ("CRPS, fair", plus_minus("crps_fair", "crps_fair_error")),
    ("CRPS", field("crps")),
    ("spread", field("spread")),
    ("RMSE of the mean", field("rmse")),
    ("spread / skill", field("spread_skill")),
    ("rank deviation", field("rank_deviation")),
    ("plan", field("plan")),
    ("git", field("git")),
)
ABLATION: tuple[Column, ...] = (
    ("experiment", field("experiment")),
    ("value", field("value")),
    ("NFE", field("nfe")),
    ("restart", intervals_of),
    ("n in a block", field("n")),
    ("blocks", field("blocks")),
    ("seeds", field("seeds")),
    ("FD", plus_minus("fd", "std")),
    ("accuracy", field("accuracy")),
    ("plan", field("plan")),
    ("git", field("git")),
)
TRIALS: tuple[Column, ...] = (
    ("trial", field("trial")),
    ("NFE", field("nfe")),
    ("FD", field("fd")),
    ("solver", _configured("solver")),
    ("steps", _configured("steps")),
    ("restart", intervals_of),
    ("n", field("n")),
    ("plan", field("plan")),
)
TUNED: tuple[Column, ...] = (
    ("budget, NFE", field("budget")),
    ("NFE", field("nfe")),
    ("FD, tuned", plus_minus("fd", "fd_std")),
    ("FD, best preset", plus_minus("fd_best_preset", "fd_best_preset_std")),
    ("best preset", field("best_preset")),
    ("FD, Heun", plus_minus("fd_heun", "fd_heun_std")),
    ("restart", intervals_of),
    ("n", field("n")),
    ("blocks", field("blocks")),
    ("first seed", field("first_seed")),
    ("plan", field("plan")),
    ("git", field("git")),
)
PAIRS: tuple[Column, ...] = (
    ("Restart", lambda pair: f"{title_of(pair.one)}, {pair.one['nfe']} NFE"),
    ("restart [N, K, t_min, t_max]", lambda pair: intervals_of(pair.one)),
    ("compared with", lambda pair: f"{title_of(pair.other)}, {pair.other['nfe']} NFE"),
    ("difference in FD", lambda pair: f"{pair.mean:+.2f} ± {pair.error:.2f}".replace("-", "−")),
    ("lower in", lambda pair: f"{pair.lower} of {pair.blocks} blocks"),
)
ENVIRONMENT: tuple[Column, ...] = (
    ("rows", field("rows")),
    ("kinds", field("kinds")),
    ("device", field("device")),
    ("threads", field("threads")),
    ("torch", field("torch")),
    ("python", field("python")),
    ("restart_sampling", field("restart_sampling")),
    ("git", field("git")),
)
