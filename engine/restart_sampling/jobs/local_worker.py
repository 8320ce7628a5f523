"""One worker of a job in this process: a sampler, and the pipeline that writes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .decoding import Decoding
from .edits import Edits
from .folder import JobFolder
from .formats.base import ShardData, Written
from .inputs.inputs import Inputs
from .manifest import Line
from .pipeline import Pipeline, Result
from .progress import Display
from .sheets import Sheets
from .signals import Stop
from .source import SamplerSource


class LocalWorker:
    """Draws this worker's shards in this process.

    Args:
        denoiser, plan, batch, options, label, pixels, edits, decoding, inputs: as `SamplerSource` takes them.
        display: what progress and failures are shown on.
        keep_seconds: least seconds between two saves of an unfinished shard.

    Attributes:
        plan: the plan as the denoiser's network runs it, from the start image on if there is one.
        device: the device.
        ran: how it runs, in words.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        batch: int,
        options: dict[str, Any],
        label: int | None,
        pixels: str,
        display: Display,
        keep_seconds: float,
        edits: Edits | None = None,
        decoding: Decoding | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.source = SamplerSource(
            denoiser, plan, batch, options, label, pixels, display.event, display.row, edits, decoding, inputs
        )
        self.digest, self.keep_seconds = plan.digest, keep_seconds
        # The sampler itself is not stored here: one that did not fit into memory must be free to go.
        self.plan, self.device = self.source.runs, str(self.source.sampler.device)
        self.ran = self.source.sampler.describe()

    def draw(self, folder: JobFolder, display: Display, stop: Stop, sheets: Sheets) -> Result:
        """Draw the unfinished shards of this worker."""
        definition, options = folder.definition, folder.definition.options

        def write(data: ShardData) -> Written:
            return definition.format.write(folder.samples, data, options, folder.tag)

        def done(line: Line, data: ShardData, before: int) -> None:
            sheets.add(data)
            folder.finish(line)  # last: from here on the shard is finished
            display.shard(line, before)

        inputs = self.source.inputs
        pipeline = Pipeline(
            self.source,
            write,
            done,
            self.digest,
            stop,
            display.samples,
            folder.parts,
            self.keep_seconds,
            None if inputs is None else inputs.follow,
            None if inputs is None else inputs.facts,
        )
        try:
            return pipeline.run(folder.todo())
        except KeyboardInterrupt:
            stop(130)
            return Result(stopped=True)

    @property
    def notes(self) -> Sequence[str]:
        """What the sampler says of its run."""
        return self.source.sampler.notes
