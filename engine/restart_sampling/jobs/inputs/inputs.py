r"""Inputs of a job: prompts or conditions, and so many samples of each.

Sample k of input i has the number i·n + k, with n samples of each input, and the seed first + number: so a job is one
range of seeds, as one without inputs is, and shards, workers, resume and verify know nothing of inputs. With
`same_seeds` the noise of every input is that of the seeds first … first + n − 1, to compare what inputs change; files
are still named by first + number.

run.json says of them, in an entry "inputs" that is sealed and makes the job:

    kind, sha256, count      "prompts" or "conditions", the digest of the file, how many inputs it has
    column, negative         of prompts: the column, and the negative prompt
    per_input, first, same_seeds

and in "input_file" where the file was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.checks import integer
from ...common.errors import RestartValueError
from ...models.denoiser import Denoiser
from ...sampler.seeds import Seeds
from ..images import Images
from .arrays import Arrays, read_arrays
from .encoding import Encode, Encoding
from .prompts import Prompts, read_prompts
from .tables import place

Note = Callable[[str, dict[str, Any]], None]  # (event, details) of what a job says and logs


class Source:
    """Where inputs come from; their numbers begin at 0."""

    def __len__(self) -> int:
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """Return what run.json says of them."""
        raise NotImplementedError

    def told(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the conditions of these inputs by name, [n, *shape]; here none."""
        return {}

    def facts(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return what formats store of these inputs, a dict of JSON values each; here nothing."""
        return [{} for _ in numbers]

    def begin(self, device: torch.device, note: Note) -> None:
        """Hear where samples are drawn, before the first is told, and what takes what is to be said of inputs."""

    def follow(self, numbers: Iterator[int]) -> None:
        """Hear which inputs are needed next, in order."""

    def close(self) -> None:
        """End what works in the background."""


class TextSource(Source):
    """Prompts and what encodes them.

    Args:
        negative: the negative prompt, which the denoiser's nulls are made of; for the record alone.
        truncation: says what of a prompt `encode` leaves out, see `Denoiser`.
    """

    def __init__(
        self,
        prompts: Prompts,
        encode: Encode,
        negative: str | None = None,
        truncation: Callable[[str], str] | None = None,
    ) -> None:
        self.prompts, self.negative = prompts, negative
        self._encoding = Encoding(encode, look=truncation)
        self._note: Note = lambda event, details: None
        self._noted = -1  # the last prompt of which was said what is left out
        self._rows, self._ahead = prompts.reader(), prompts.reader()  # each thread reads on from its own place
        self._reached = -1  # the last prompt that was read ahead

    def __len__(self) -> int:
        return len(self.prompts)

    def record(self) -> dict[str, Any]:
        negative = {} if self.negative is None else {"negative": self.negative}
        found = self.prompts
        return {"kind": "prompts", "sha256": found.sha256, "count": len(found), "column": found.column, **negative}

    def told(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        prompts = self.prompts.of(numbers)
        found, seen = self._encoding.of([prompt.text for prompt in prompts])
        path = self.prompts.path
        for number, prompt in zip(numbers, prompts, strict=True):
            if number > self._noted and (why := seen[prompt.text]):
                self._noted = number
                self._note("prompt truncated", {"file": str(path), place(path): prompt.line, "why": why})
        return found

    def facts(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        negative = {} if self.negative is None else {"negative_prompt": self.negative}
        plain = self.prompts.path.suffix.lower() == ".txt"  # all rows of a job have the same keys
        return [
            {"prompt": one.text, **negative, **({} if plain else {"meta": one.meta})} for one in self._rows.of(numbers)
        ]

    def begin(self, device: torch.device, note: Note) -> None:
        self._note = note
        if not self._encoding.to(device):
            note("encoder stays", {"device": str(device)})

    def follow(self, numbers: Iterator[int]) -> None:
        self._encoding.follow(self._texts(numbers))

    def _texts(self, numbers: Iterator[int]) -> Iterator[str]:
        """Yield the texts of prompts that were not read ahead yet, so that the file is read forwards alone."""
        for number in numbers:
            if number > self._reached:
                self._reached = number
                yield self._ahead.of([number])[0].text

    def close(self) -> None:
        self._encoding.close()


class ArraySource(Source):
    """Conditions from arrays."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def record(self) -> dict[str, Any]:
        return {"kind": "conditions", "sha256": self.arrays.sha256, "count": len(self)}

    def told(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return self.arrays.of(numbers)


class ImageSource(Source):
    """Images that samples begin with or keep, one for each input; what they are is told in edits.py."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.array)

    def record(self) -> dict[str, Any]:
        return {"kind": "images", "sha256": self.images.sha256, "count": len(self)}


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a job.

    Attributes:
        source: the inputs. path: of their file, None for an array of images. per_input: samples of each.
        first: the first seed. same_seeds: whether all inputs have the same noise.
        asked: for `again`.
    """

    source: Source
    path: str | None
    per_input: int = 1
    first: int = 0
    same_seeds: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def again(cls, denoiser: Denoiser, asked: Mapping[str, Any]) -> Inputs:
        """Read the inputs of a job once more, in another process; `asked` is that of the first time.

        Raises RestartValueError if the file has changed.
        """
        options = dict(asked)
        record = options.pop("record")
        found = cls.read(denoiser, **options)
        if found.record() != record:
            raise RestartValueError(f"{found.path} has changed while the job runs; start the job again")
        return found

    @classmethod
    def read(
        cls,
        denoiser: Denoiser,
        prompts: str | Path | None = None,
        conditions: str | Path | None = None,
        images: Images | None = None,
        *,
        prompt_column: str | None = None,
        encode: Encode | None = None,
        negative: str | None = None,
        per_input: int = 1,
        first_seed: int = 0,
        same_seeds: bool = False,
    ) -> Inputs:
        """Return the inputs in a file, checked against a denoiser.

        Args:
            prompts, conditions: the file; one of the two, or images alone, with one for each input.
            prompt_column: of the prompts.
            encode: returns the conditions of a prompt; by default the denoiser's own.

        Raises:
            RestartValueError: one sentence about what cannot be read, does not fit or go together.
        """
        given = {"prompts": prompts, "conditions": conditions, "images": images}
        kinds = [name for name, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise RestartValueError("give one of a file of prompts, a file of conditions, and images")
        per_input = integer("per_input", per_input, 1, 2**31, error=RestartValueError)
        first_seed = integer("first_seed", first_seed, 0, 2**63 - 1, error=RestartValueError)
        source: Source
        path: str | Path | None
        if prompts is not None:
            encoder = encode or denoiser.encode
            if encoder is None:
                raise RestartValueError(
                    f"{denoiser.name!r} takes no prompts; give --conditions, or the folder of a text-to-image pipeline"
                )
            found = read_prompts(prompts, prompt_column)
            truncation = denoiser.truncation if encode is None else None
            source, path = TextSource(found, encoder, negative, truncation), found.path
        elif prompt_column is not None or negative is not None:
            raise RestartValueError(f"prompt_column and negative are of prompts; leave them out with {kinds[0]}")
        elif images is not None:
            if not images.each:
                raise RestartValueError(f"{images} is one image for all samples; give a folder, or leave per_input out")
            source, path = ImageSource(images), images.path
        else:
            arrays = read_arrays(str(conditions), denoiser.conditions)
            source, path = ArraySource(arrays), arrays.path
        made = cls(source, None if path is None else str(path), per_input, first_seed, bool(same_seeds))
        asked = {
            kinds[0]: given[kinds[0]],
            "prompt_column": prompt_column,
            "encode": encode,
            "negative": negative,
            "per_input": per_input,
            "first_seed": first_seed,
            "same_seeds": same_seeds,
            "record": made.record(),
        }
        return replace(made, asked=asked)

    @property
    def seeds(self) -> Seeds:
        """The seeds of the job, one for each sample."""
        return Seeds([range(self.first, self.first + len(self.source) * self.per_input)])

    def numbers(self, seeds: np.ndarray) -> np.ndarray:
        """Return which input each seed of the job, int64 [n], is of."""
        found: np.ndarray = (seeds - self.first) // self.per_input
        return found

    def noise(self, seeds: np.ndarray) -> np.ndarray:
        """Return the seed of the noise of each seed of the job, int64 [n]."""
        if not self.same_seeds:
            return seeds
        found: np.ndarray = self.first + (seeds - self.first) % self.per_input
        return found

    def told(self, seeds: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the conditions of seeds of the job by name, [n, *shape] on `device`.

        They may have been read or encoded elsewhere: a pipeline's encoders may stay on the host.
        """
        return {name: value.to(device) for name, value in self.source.told(self.numbers(seeds).tolist()).items()}

    def facts(self, seeds: np.ndarray) -> tuple[Mapping[str, Any], ...]:
        """Return what formats store of seeds of the job: the input, which of its samples this is, the prompt.

        With `same_seeds` also "seed", that of the noise, which is not the sample's own.
        """
        numbers = self.numbers(seeds)
        k = (seeds - self.first) % self.per_input
        found = self.source.facts(numbers.tolist())
        noise = [{"seed": seed} if self.same_seeds else {} for seed in self.noise(seeds).tolist()]
        places = zip(numbers.tolist(), k.tolist(), noise, found, strict=True)
        return tuple({"input": i, "k": j} | own | one for i, j, own, one in places)

    def follow(self, seeds: Iterator[int]) -> None:
        """Say which seeds of the job are drawn next, in order."""
        self.source.follow((seed - self.first) // self.per_input for seed in seeds)

    def record(self) -> dict[str, Any]:
        """Return the entries of run.json."""
        own = {"per_input": self.per_input, "first": self.first, "same_seeds": self.same_seeds}
        return {"inputs": self.source.record() | own} | ({} if self.path is None else {"input_file": self.path})
