"""Where the samples of inputs belong: seed first + i·n + k of a job with n samples of each is the k-th of input i."""

from __future__ import annotations

from collections.abc import Iterator

from ...common.errors import OutputError
from .base import ShardData
from .options import Options


def place(seed: int, options: Options) -> tuple[int, int]:
    """Return (input, k) of a sample by its seed in the job."""
    return divmod(seed - options.first, options.per_input or 1)


def places(data: ShardData, options: Options) -> Iterator[tuple[int, int]]:
    """Yield (input, k) of each image. Raises OutputError where its row says otherwise: nothing is written then."""
    for i, seed in enumerate(data.seeds.tolist()):
        found, row = place(seed, options), {} if data.rows is None else data.rows[i]
        if (row.get("input", found[0]), row.get("k", found[1])) != found:
            raise OutputError(
                f"sample {seed} is number {found[1]} of input {found[0]} by its seed, and number {row.get('k')} of "
                f"input {row.get('input')} by its row"
            )
        yield found
