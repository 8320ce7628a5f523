"""What is known of each sample: beside it, in it, and in tables; read by the libraries that people read it with."""

from __future__ import annotations

import io
import json
import os
import pkgutil
import re
import signal
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support import killing
from support.stored import PLAN, PROMPTS, SIZE, Network, draw, report, row, with_inputs

import restart_sampling as rs
from restart_sampling.common.errors import OutputError
from restart_sampling.jobs.formats.base import ShardData
from restart_sampling.jobs.formats.encodings.registry import ENCODINGS
from restart_sampling.jobs.formats.options import Options
from restart_sampling.jobs.formats.registry import FORMATS, find
from restart_sampling.jobs.formats.text import parameters
from restart_sampling.jobs.shards import Shards
from restart_sampling.jobs.workers import Worker

EACH = 5  # samples of an input, so that one lies in both shards of 12
LAYOUTS = ["png", "npz", "wds", "parquet", "imagefolder", "geneval"]


@pytest.fixture
def inputs(monkeypatch):
    with_inputs(monkeypatch, EACH)


def known(seed):
    """The record of a sample."""
    return {"seed": seed, "class": None, "plan": PLAN.digest, **row(seed, EACH)}


def shard(rows=None, images=None, labels=None):
    """A shard of three images."""
    images = np.zeros((3, 8, 8, 3), np.uint8) if images is None else images
    one = Shards(rs.parse_seeds("0-2"), SIZE)[0]
    return ShardData(one, np.arange(len(images)), labels, images, "p", (), rows)


# --- records -----------------------------------------------------------------------------------------------------


def test_a_row_is_merged_into_the_record():
    rows = ({"prompt": "a", "k": 0}, {"prompt": "b", "k": 1}, {"prompt": "c", "k": 2, "seed": 99})
    data = shard(rows, labels=np.array([4, 5, 6]))
    assert data.record(1) == {"seed": 1, "class": 5, "plan": "p", "prompt": "b", "k": 1}
    assert data.record(2)["seed"] == 99  # the seed of its noise, where that is not its number
    assert shard().record(1) == {"seed": 1, "class": None, "plan": "p"}


# --- every format ------------------------------------------------------------------------------------------------


def read_png(samples):
    for seed in range(24):
        yield json.loads((samples / f"{seed:06d}.json").read_bytes())


def read_npz(samples):
    for path in sorted(samples.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            assert len(arrays["records"]) == len(arrays["arr_0"])
            yield from (json.loads(text) for text in arrays["records"])


def read_wds(samples):
    """Keys end at the first dot of a name, and every sample has the same members: so do its readers find them."""
    for path in sorted(samples.glob("*.tar")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                key, suffix = member.name.split(".", 1)
                found.setdefault(key, {})[suffix] = archive.extractfile(member).read()
        for key, members in found.items():
            assert list(members) == ["json", "txt", "png"] and re.fullmatch("[0-9]{6}", key)
            record = json.loads(members["json"])
            assert members["txt"].decode() == record["prompt"] and int(key) == record["seed"]
            yield record


def read_parquet(samples):
    import pyarrow.parquet as pq

    schemas = set()
    for path in sorted(samples.glob("*.parquet")):
        table = pq.read_table(path)
        schemas.add((table.schema.to_string(), table.schema.metadata[b"huggingface"]))
        for found in table.to_pylist():
            assert Image.open(io.BytesIO(found.pop("image")["bytes"])).size == (24, 16)
            yield found | {"class": None, "meta": json.loads(found["meta"])}
    assert len(schemas) == 1


def read_imagefolder(samples):
    for path in sorted(samples.glob("*/metadata.jsonl")):
        for text in path.read_bytes().splitlines():
            line = json.loads(text)
            assert Image.open(path.parent / line.pop("file_name")).size == (24, 16)
            negative = line["negative_prompt"] or None
            yield line | {
                "class": None,
                "prompt": line.pop("text"),
                "negative_prompt": negative,
                "meta": json.loads(line["meta"]),
            }


def read_geneval(samples):
    for seed in range(24):
        number, k = divmod(seed, EACH)
        folder = samples / f"{number:05d}"
        assert Image.open(folder / "samples" / f"{k:05d}.png").size == (24, 16)
        found = json.loads((folder / "metadata.jsonl").read_text())
        prompt = found.pop("prompt")
        yield known(seed) | {"prompt": prompt, "meta": found}  # what its folder does not say is not compared


READERS = {name.removeprefix("read_"): value for name, value in globals().items() if name.startswith("read_")}


@pytest.mark.parametrize("format", LAYOUTS)
def test_every_format_holds_what_is_known(format, inputs, tmp_path):
    """Prompts with line breaks, NUL, quotes, dots, emoji, 10 kB, and none; equal bytes by two workers, after a stop."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    options = dict(format=format, metadata="json" if format == "png" else None)
    draw(tmp_path / "a", **options)
    assert [*READERS[format](tmp_path / "a" / "samples")] == [known(seed) for seed in range(24)]
    assert {known(seed)["prompt"] for seed in range(24)} == set(PROMPTS[:5])
    assert (report(tmp_path / "a").exit_code, report(tmp_path / "a").images) == (0, 24)
    for rank in (1, 0):
        draw(tmp_path / "b", batch=11, worker=Worker(rank, 2), **options)
    draw(tmp_path / "c", Network(1), **options)
    draw(tmp_path / "c", batch=16, **options)
    for name in "bc":
        assert killing.tree(tmp_path / name) == killing.tree(tmp_path / "a")
    draw(tmp_path / "a", seeds="0-3", format="npz", overwrite=True, shard_size=4)
    assert list(killing.tree(tmp_path / "a")) == ["shard-000000.npz"]
    assert [path.name for path in (tmp_path / "a" / "samples").iterdir()] == ["shard-000000.npz"]


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("prompt", [*PROMPTS, "\ud800 a lone surrogate", None])
def test_every_prompt_goes_into_every_format(format, prompt, tmp_path):
    """Each alone in a shard, as the only thing that its columns hold, and as text in the picture."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    rows = tuple(
        {"prompt": prompt, "negative_prompt": prompt, "input": 0, "k": k, "meta": {"x": prompt}} for k in (0, 1, 2)
    )
    text = () if format == "npz" else ("text",)
    options = Options(per_input=3, metadata=text)
    written = find(format).write(tmp_path, shard(rows), options, "t")
    names = [*find(format).files(shard().shard, range(3), options)]
    assert sorted(names) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert sum(find(format).check(tmp_path / name) for name in names) == 3
    assert written.bytes == sum((tmp_path / name).stat().st_size for name in names)


@pytest.mark.parametrize("format", [name for name in FORMATS if "uint8" in FORMATS[name].pixels])
def test_a_shard_without_images_has_the_columns_of_others(format, tmp_path):
    if FORMATS[format].needs:
        pytest.importorskip(FORMATS[format].modules[0])
    rows = tuple(row(seed, 3) for seed in range(3))
    empty = replace(shard(()), seeds=np.zeros(0, np.int64), images=np.zeros((0, 8, 8, 3), np.uint8))
    options = Options(per_input=3, encoding=format if format in ENCODINGS else "png")
    for name, data in (("some", shard(rows)), ("none", empty)):
        (tmp_path / name).mkdir()
        find(format).write(tmp_path / name, data, options, "t")
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert sum(find(format).check(path) for path in files) == len(data.seeds)
    if format == "parquet":
        import pyarrow.parquet as pq

        a, b = (pq.read_schema(tmp_path / name / "shard-000000.parquet") for name in ("some", "none"))
        assert a.equals(b, check_metadata=True)


@pytest.mark.parametrize("format", FORMATS)
def test_contact_sheets_never_lie_among_samples(format, inputs, tmp_path):
    if FORMATS[format].needs:
        pytest.importorskip(FORMATS[format].modules[0])
    floats = "uint8" not in FORMATS[format].pixels
    draw(tmp_path, format=format, sheets=1, preview=True, shard_size=10, pixels="float32" if floats else "uint8")
    sheets = ("grid.png", "preview.png", "sheets/000001.png", "sheets/000002.png")
    contents = {(tmp_path / name).read_bytes() for name in sheets}
    assert not [path for path in (tmp_path / "samples").rglob("*") if path.is_file() and path.read_bytes() in contents]
    named = {path.name for path in (tmp_path / "samples").rglob("*")}
    assert not named & {"grid.png", "preview.png", "sheets"}


# --- text in pictures --------------------------------------------------------------------------------------------


def parsed(text):
    """The field as its readers take it apart: the last line by commas outside of quotes, what is above as prompts."""
    *lines, last = text.split("\n")
    values = {}
    while last:
        name, _, rest = last.partition(": ")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            last = rest[end:].removeprefix(", ")
        else:
            value, _, last = rest.partition(", ")
        values[name] = value
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt: ")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt: ")
    return "\n".join(lines[:start]), negative, values


def text_of(content):
    """The text in a picture, and the EXIF type of its entry."""
    image = Image.open(io.BytesIO(content))
    if image.format == "PNG":
        return image.text["parameters"], 7
    exif = image.getexif()
    comment = exif.get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    at = image.info["exif"].index(b"\x92\x86")
    return comment[8:].decode("utf-16-be"), int.from_bytes(image.info["exif"][at + 2 : at + 4])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_text_in_a_picture_is_what_its_readers_parse(encoding, prompt):
    job = {"plan": rs.Plan.build(steps=7, guidance_scale=4.5, restart="[3, 2, 0.06, 0.3]").config.to_dict()}
    job = json.loads(json.dumps(job | {"nfe": 23, "model_sha256": "0123456789abcdef" * 4}))
    record = {"seed": 2**62, "class": 3, "plan": "d1", "prompt": prompt, "negative_prompt": prompt}
    content = ENCODINGS[encoding].encode(np.zeros((16, 24, 3), np.uint8), 90, parameters(record, 16, 24, job))
    text, kind = text_of(content)
    shown = prompt.replace("\0", "\ufffd").strip()
    found, negative, values = parsed(text)
    assert (found, negative, kind) == (shown, shown, 7)
    assert list(values)[:6] == ["Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash"]
    assert values == {
        "Steps": "7",
        "Sampler": "heun",
        "CFG scale": "4.5",
        "Seed": str(2**62),
        "Size": "24x16",
        "Model hash": "0123456789",
        "Class": "3",
        "Restart": "[3, 2, 0.06, 0.3]",
        "NFE": "23",
        "Plan": "d1",
    }
    assert rs.RestartConfig.parse(values["Restart"]) == rs.RestartConfig.parse(job["plan"]["restart"])


def test_without_prompts_the_text_is_its_last_line():
    assert parameters({"seed": 5, "class": None, "plan": ""}, 8, 8, {}) == "Seed: 5, Size: 8x8"


@pytest.mark.parametrize("text", ["x" * 40_000, "a" + "🐈" * 20_000])
def test_a_text_that_no_jpeg_can_hold_is_cut_and_says_so(text):
    for encoding in ("jpg", "webp"):
        found, _ = text_of(ENCODINGS[encoding].encode(np.zeros((8, 8, 3), np.uint8), 90, text))
        assert found.endswith("…") and text.startswith(found[:-1]) and len(found.encode("utf-16-be")) > 64_900
    assert text_of(ENCODINGS["png"].encode(np.zeros((8, 8, 3), np.uint8), None, text))[0] == text


def test_a_picture_with_text_has_the_pixels_of_one_without(inputs, tmp_path):
    draw(tmp_path / "a", format="wds")
    draw(tmp_path / "b", format="wds", metadata="text")
    for name in ("shard-000000.tar", "shard-000001.tar"):
        with tarfile.open(tmp_path / "a/samples" / name) as a, tarfile.open(tmp_path / "b/samples" / name) as b:
            for member in a.getnames():
                old, new = (archive.extractfile(member).read() for archive in (a, b))
                if member.endswith(".png"):
                    assert "parameters" not in Image.open(io.BytesIO(old)).text
                    assert f"Seed: {int(member[:6])}," in text_of(new)[0]
                    old, new = (np.asarray(Image.open(io.BytesIO(content))).tobytes() for content in (old, new))
                assert old == new


# --- prompts by folder -------------------------------------------------------------------------------------------


def test_geneval_wants_inputs(tmp_path):
    with pytest.raises(OutputError, match="geneval holds the samples of prompts, and this job has none; choose"):
        draw(tmp_path / "out", format="geneval")
    assert not (tmp_path / "out").exists()


def test_a_row_that_is_not_of_its_sample_is_refused(monkeypatch, tmp_path):
    with_inputs(monkeypatch, 5, lambda seed, n: row(seed, n) | {"input": 0})
    with pytest.raises(
        OutputError, match=r"sample (5|12) is number . of input . by its seed, and number . of input 0 by its row"
    ):
        draw(tmp_path, format="geneval")


def test_two_threads_may_write_the_metadata_of_a_prompt_that_lies_in_two_shards(inputs, monkeypatch, tmp_path):
    """Writer threads have one tag. The second shard is written while the first is about to rename its file."""
    format, options = find("geneval"), replace(Options(), per_input=EACH)
    both = Shards(rs.parse_seeds("0-7"), 4)  # input 0 has samples 0 to 4
    images = np.zeros((4, 8, 8, 3), np.uint8)
    first, second = (
        ShardData(one, np.arange(k, k + 4), None, images, "p", (), tuple(row(seed, EACH) for seed in range(k, k + 4)))
        for one, k in zip(both, (0, 4), strict=True)
    )
    rename = os.replace

    def beside(old, new):
        monkeypatch.setattr(os, "replace", rename)
        format.write(tmp_path, second, options, "r0")
        rename(old, new)

    monkeypatch.setattr(os, "replace", beside)
    format.write(tmp_path, first, options, "r0")
    assert len(list(tmp_path.rglob("*.png"))) == 8 and len(list(tmp_path.rglob("metadata.jsonl"))) == 2
    assert not list(tmp_path.rglob(".*.tmp"))


def test_another_number_of_samples_for_each_input_is_another_job(monkeypatch, tmp_path):
    with_inputs(monkeypatch, 5)
    draw(tmp_path, seeds="0-4", format="imagefolder")
    with_inputs(monkeypatch, 4)
    with pytest.raises(OutputError, match="per_input of the inputs is 5 there and 4 here"):
        draw(tmp_path, seeds="0-4", format="imagefolder")


# --- kills -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format, operation", [("imagefolder", "os.replace"), ("geneval", "os.fsync")])
def test_killed_at_a_write(format, operation, inputs, tmp_path):
    """kill -9 at the N-th write: nothing that reads as finished is broken, and the next run ends with the same tree."""
    draw(tmp_path / "want", format=format)

    def killed(n):
        original, calls = pkgutil.resolve_name(operation), [0]

        def call(*arguments):
            calls[0] += 1
            if calls[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(os, operation.removeprefix("os."), call)
        draw(tmp_path / str(n), format=format, keep_seconds=0.0)

    codes = []
    for n in range(2, 200, 8):
        child = killing.fork(lambda n=n: killed(n))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if (tmp_path / str(n) / "run.json").exists():
            assert not report(tmp_path / str(n)).broken
        draw(tmp_path / str(n), format=format)
        assert killing.tree(tmp_path / str(n)) == killing.tree(tmp_path / "want")
        assert not list((tmp_path / str(n)).rglob(".*.tmp"))
        if codes[-1] == 0:
            break
    assert set(codes[:-1]) == {-signal.SIGKILL} and codes[-1] == 0 and len(codes) > 3


# --- other libraries ---------------------------------------------------------------------------------------------


def test_datasets_shows_pictures_and_captions(inputs, tmp_path):
    """`datasets` itself: the three formats that it has loaders for."""
    datasets = pytest.importorskip("datasets")  # of the extra `test`
    datasets.disable_progress_bars()
    ways = {"imagefolder": ("imagefolder", "text", ""), "parquet": ("parquet", "prompt", "*.parquet")}
    ways["wds"] = ("webdataset", "txt", "*.tar")
    for format, (loader, caption, pattern) in ways.items():
        draw(tmp_path / format, format=format)
        folder = tmp_path / format / "samples"
        where = {"data_files": str(folder / pattern)} if pattern else {"data_dir": str(folder)}
        table = datasets.load_dataset(loader, cache_dir=str(tmp_path / "cache"), **where)["train"]
        assert len(table) == 24
        for found in table:
            seed = found["json"]["seed"] if format == "wds" else found["seed"]
            assert found[caption] == row(seed, EACH)["prompt"]
            assert found["png" if format == "wds" else "image"].size == (24, 16)
