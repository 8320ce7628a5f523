"""Jobs that draw from prompts or conditions: the files, what each sample is told, resume, workers, bad inputs."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import restart_sampling as rs
from restart_sampling.common.errors import OutputError, RestartValueError
from restart_sampling.common.terminal import plain_console
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.images import read_images
from restart_sampling.jobs.inputs import arrays, encoding, prompts, tables
from restart_sampling.jobs.inputs.arrays import read_arrays
from restart_sampling.jobs.inputs.encoding import Encoding
from restart_sampling.jobs.inputs.inputs import Inputs
from restart_sampling.jobs.inputs.prompts import read_prompts
from restart_sampling.jobs.progress import Display
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.verify import verify
from restart_sampling.jobs.workers import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = rs.Plan.build(steps=3, restart="[2, 1, 0.5, 2]")
TEXTS = [f"prompt {k % 7} of {k // 7}" for k in range(20)]


def told(text: str) -> dict[str, torch.Tensor]:
    """A made-up encoder: a vector of a text's hash."""
    digest = hashlib.sha256(text.encode()).digest()
    return {"embeds": torch.tensor([byte / 128 - 1 for byte in digest[:3]])}


def network(x, sigma, embeds):
    """The denoiser of one pixel value per channel, that of the embedding."""
    c = (sigma**2 / (1 + sigma**2)).view(-1, 1, 1, 1)
    return (1 - c) * x + c * embeds.view(-1, 3, 1, 1)


def model() -> rs.Denoiser:
    conditions = {"embeds": rs.Condition((3,), null=0.0)}
    return replace(rs.Denoiser.from_function(network, (3, 4, 4), conditions=conditions), encode=told)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def draw(out, source, worker=None, stop=None, **options):
    given = {"prompts": source} if isinstance(source, Path) and source.suffix != ".npz" else {"conditions": source}
    names = ("prompt_column", "per_input", "first_seed", "same_seeds", "negative")
    inputs = Inputs.read(model(), **given, **{name: options.pop(name) for name in names if name in options})
    options = {"batch": 8, "shard_size": 16, "sheets": 0, "format": "npz", "pixels": "float32"} | options
    return run_job(model(), PLAN, None, out, inputs=inputs, worker=worker, stop=stop, **options)


def samples(out):
    """The samples of a job of npz files, by seed."""
    found = {}
    for path in sorted((out / "samples").glob("*.npz")):
        with np.load(path) as content:
            found |= dict(zip(content["seeds"].tolist(), content["arr_0"], strict=True))
    return found


def tree(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "samples").rglob("*"))
        if path.is_file()
    }


def exact(text, seed):
    """What `Sampler.run` draws of this text and seed alone."""
    return rs.sample(model(), PLAN, [seed], batch_size=8, conditions={"embeds": told(text)["embeds"]})[0].numpy()


@pytest.mark.parametrize("same", [False, True])
def test_what_formats_store_of_a_sample(file, same):
    """The seed of the noise only where it is not the sample's own."""
    inputs = Inputs.read(model(), file, per_input=3, first_seed=7, same_seeds=same)
    want = [
        {"input": i, "k": k, "prompt": TEXTS[i]} | ({"seed": 7 + k} if same else {}) for i in (1, 2) for k in range(3)
    ]
    assert list(inputs.facts(np.arange(10, 16))) == want


@pytest.mark.parametrize("same", [False, True])
def test_sample_k_of_input_i_has_its_number_and_its_noise(tmp_path, file, same):
    assert draw(tmp_path / "out", file, per_input=3, first_seed=100, same_seeds=same) == []
    found = samples(tmp_path / "out")
    assert list(found) == list(range(100, 160))
    for i, k in ((0, 0), (0, 2), (7, 1), (19, 2)):
        number = 3 * i + k
        wanted = exact(TEXTS[i], 100 + (k if same else number))
        assert np.allclose(found[100 + number], wanted, atol=1e-6), (i, k)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["inputs"] == {
        "kind": "prompts",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "count": 20,
        "column": "prompt",
        "per_input": 3,
        "first": 100,
        "same_seeds": same,
    }
    *_, (_, report) = verify(tmp_path / "out")
    assert report.exit_code == 0


def test_a_stopped_job_and_two_workers_give_the_same_bytes(tmp_path, file):
    draw(tmp_path / "whole", file, per_input=3)
    want = tree(tmp_path / "whole")
    stop = Stop()
    draw(tmp_path / "parts", file, per_input=3, stop=_after(stop, 3))
    assert tree(tmp_path / "parts") != want
    draw(tmp_path / "parts", file, per_input=3)
    assert tree(tmp_path / "parts") == want
    for rank in range(2):
        draw(tmp_path / "two", file, per_input=3, worker=Worker(rank, 2, rank), batch=5)
    assert tree(tmp_path / "two") == want


class _after(Stop):
    """Stops after a number of batches."""

    def __init__(self, stop, batches):
        super().__init__()
        self.left = batches

    def __bool__(self):
        self.left -= 1
        return self.left <= 0


def test_another_file_is_refused_and_nothing_is_drawn(tmp_path, file):
    draw(tmp_path / "out", file, stop=_after(Stop(), 1))
    before = tree(tmp_path / "out")
    file.write_text(file.read_text().replace("prompt 3", "prompt three"))
    with pytest.raises(OutputError, match=r"the prompts in .*prompts.txt are not those that the run began with"):
        draw(tmp_path / "out", file)
    with pytest.raises(OutputError, match="per_input of the inputs is 1 there and 2 here"):
        file.write_text(file.read_text().replace("prompt three", "prompt 3"))
        draw(tmp_path / "out", file, per_input=2)
    assert tree(tmp_path / "out") == before
    assert draw(tmp_path / "out", file) == []


def test_a_file_that_changes_while_a_job_reads_it_is_an_error(file):
    found = read_prompts(file)
    assert found.of([3])[0].text == TEXTS[3]
    file.write_text("\n".join(reversed(TEXTS)) + "\nmore\n")
    with pytest.raises(RestartValueError, match="has changed while the job runs"):
        found.reader().of([0])


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("p.txt", 'a red fox\nzwei Füchse, "quoted"\n', None),
        ("p.csv", 'Prompt,id\na red fox,1\n"zwei Füchse, ""quoted""",2\n', "Prompt"),
        ("p.tsv", 'Prompt\tCategory\na red fox\tanimals\n"zwei Füchse, ""quoted"""\tother\n', None),
        (
            "p.jsonl",
            '{"prompt": "a red fox", "tag": "one"}\n\n{"prompt": "zwei Füchse, \\"quoted\\"", "tag": 2}\n',
            None,
        ),
        ("p.csv", 'title,words\n1,a red fox\n2,"zwei Füchse, ""quoted"""\n', "words"),
        ("p.json", '["a red fox", "zwei Füchse, \\"quoted\\""]', None),
        (
            "p.json",
            '{"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"image_id": 7, "id": 1, "caption": '
            '"a red fox"}, {"image_id": 8, "id": 2, "caption": "zwei Füchse, \\"quoted\\""}]}',
            None,
        ),
    ],
)
def test_every_kind_of_file(tmp_path, name, content, column):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" * (name == "p.csv") + content.encode())
    found = read_prompts(path, column)
    assert len(found) == 2
    assert [one.text for one in found.of([0, 1])] == ["a red fox", 'zwei Füchse, "quoted"']
    assert found.of([1, 0])[1].text == "a red fox"


def test_values_of_several_lines_and_other_columns(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('id,prompt\n1,"one\ntwo"\n2,three\n')
    first, second = read_prompts(path).of([0, 1])
    assert (first.text, first.line, first.meta) == ("one\ntwo", 2, {"id": "1"})
    assert (second.text, second.line) == ("three", 4)


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"caption": TEXTS, "n": range(20)}), tmp_path / "p.parquet", row_group_size=6)
    found = read_prompts(tmp_path / "p.parquet")
    assert [(one.text, one.meta["n"]) for one in found.of([19, 2])] == [(TEXTS[19], 19), (TEXTS[2], 2)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"fox\n\nhen\n", r"p.txt, line 2 is an empty prompt; remove the line"),
        ("p.txt", b"", r"p.txt holds no prompts"),
        ("p.txt", b"fox\n\xff\xfe\n", r"p.txt, line 2 is not UTF-8"),
        ("p.txt", b"fox\nh\x00n\n", r"p.txt, line 2 has a null character"),
        ("p.csv", b"id,name\n1,fox\n", r"has the columns id, name, and none is called prompt, caption or text"),
        ("p.csv", b"id,prompt\n1,fox\n2\n", r"line 3 has 1 value, and the header names 2 columns"),
        ("p.csv", b'id,prompt\n1,"fox\n', r"line 2 is no row of a table"),
        ("p.csv", b"prompt,prompt\n1,fox\n", r"two columns of one name"),
        ("p.jsonl", b'{"prompt": "fox"}\n{"promt": "hen"}\n', r"line 2 has no value in the column 'prompt'"),
        ("p.jsonl", b'{"prompt": "fox"}\n{"prompt": 3}\n', r"line 2 has 3, not text, in the column 'prompt'"),
        ("p.jsonl", b'{"prompt": "fox"}\n{"prompt": "hen\n', r"line 2 is not JSON"),
        ("p.jsonl", b'{"prompt": "fox"}\n["hen"]\n', r"line 2 holds .*; a row is an object"),
        ("p.jsonl", b'{"prompt": "fox \\ud800"}\n', r"line 1 is not JSON: .*surrogate"),
        ("p.json", b'{"prompts": []}', r"holds neither COCO's `annotations` nor a list"),
        ("p.json", b'{"annotations": [3]}', r"row 1 holds 3"),
        ("p.csv", b"id,prompt\n,fox\n,hen\n7,hare\n7,ox\n", r"p.csv, line 5 has the id '7' of line 4"),
        ("p.csv", b"id,prompt\n7,fox\n8,hen\n7,hare\n", r"p.csv, line 4 has the id '7' of line 2; give each prompt"),
        ("p.json", b'[{"id": 7, "prompt": "fox"}, {"id": 7, "prompt": "hen"}]', r"p.json, row 2 has the id 7 of row 1"),
        ("p.parquet", b"PAR1", r"p.parquet is no Parquet file"),
        ("p.docx", b"fox", r"p.docx is no table that is known \(.txt, .csv"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_the_line(tmp_path, name, content, said):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RestartValueError, match=said):
        read_prompts(path)


def test_ids_that_are_missing_or_equal_in_eight_bytes_are_no_duplicates(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("id,prompt\n,fox\n,hen\n7,hare\n")
    assert len(read_prompts(tmp_path / "p.csv")) == 3
    (tmp_path / "p.jsonl").write_text(
        "".join(f'{{"id": {k}, "prompt": "fox"}}\n' for k in (1, "null", 2, "null", "true"))
    )
    monkeypatch.setattr(prompts, "_digest", lambda value: 5)
    assert len(read_prompts(tmp_path / "p.jsonl")) == 5


def test_a_column_that_is_not_there(tmp_path):
    (tmp_path / "p.csv").write_text("id,prompt\n1,fox\n")
    with pytest.raises(RestartValueError, match=r"has no column 'promt'; did you mean .*prompt"):
        read_prompts(tmp_path / "p.csv", "promt")
    with pytest.raises(RestartValueError, match="there is no file of prompts"):
        read_prompts(tmp_path / "q.csv")


def test_a_file_is_read_on_and_not_from_the_start(tmp_path, file, monkeypatch):
    monkeypatch.setattr(prompts, "KEPT", 4)
    begun = []
    rows = tables.rows
    monkeypatch.setattr(tables, "rows", lambda path: (begun.append(path), rows(path))[1])
    found = read_prompts(file)
    found = prompts.Prompts(found.path, found.column, found.count, found.sha256, found._stamp)
    begun.clear()
    for numbers in ([0, 1, 2], [2, 3, 4], [4, 5, 9], [8]):
        assert [one.text for one in found.of(numbers)] == [TEXTS[n] for n in numbers]
    assert len(begun) == 1
    assert found.of([0])[0].text == TEXTS[0]
    assert len(begun) == 2


def test_prompts_are_encoded_once_and_ahead(tmp_path):
    """Of 60 samples with 5 different texts, the encoder sees 5; and it works while the sampler does."""
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"text {k % 5}" for k in range(30)))
    seen = []

    def encode(text):
        seen.append((text, threading.current_thread().name))
        return told(text)

    inputs = Inputs.read(model(), path, per_input=2, encode=encode)
    run_job(
        model(),
        PLAN,
        None,
        tmp_path / "out",
        inputs=inputs,
        batch=8,
        shard_size=16,
        sheets=0,
        format="wds",
        pixels="float32",
    )
    assert sorted(seen) == [(f"text {k}", "restart-encoder") for k in range(5)]


def test_what_waits_for_the_sampler_is_bounded():
    """The encoder stops when enough waits, and goes on when some of it is used; what is asked for comes first."""
    size = 3 * 4
    made = threading.Semaphore(0)

    def encode(text):
        made.release()
        return told(text)

    work = Encoding(encode, ahead=5 * size)
    work.follow(str(k) for k in range(100))
    for _ in range(5):
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.2)
    assert torch.equal(work.of(["0", "1", "0"])[0]["embeds"], torch.stack([told(t)["embeds"] for t in "010"]))
    for _ in range(2):
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.2)
    far = work.of(["90", "91"])[0]["embeds"]
    assert torch.equal(far[1], told("91")["embeds"])
    assert sum(map(len, (work._waiting, work._used))) <= 12
    while made.acquire(timeout=0.2):
        pass
    work.follow(str(k) for k in range(200, 300))
    work.of(["200"])
    for _ in range(2):  # what waits and was passed by does not keep it from working ahead
        assert made.acquire(timeout=10)
    for k in range(201, 240):
        work.of([str(k)])
    assert len(work._used) <= 5 and work._bytes["used"] == size * len(work._used)
    work.close()


def test_a_prompt_that_is_truncated_is_said_with_its_line_and_drawn(tmp_path, capsys):
    """Ten notes at most are printed; the log has all of them, each once, whatever repeats."""
    path, out = tmp_path / "p.tsv", tmp_path / "out"
    path.write_text("prompt\n" + "\n".join("word " * (k % 3) + "word" for k in range(36)) + "\n")
    den = replace(model(), truncation=lambda text: "has 3 tokens, and the encoder reads 2" if len(text) > 10 else "")
    options = {"batch": 8, "shard_size": 16, "sheets": 0, "format": "npz", "pixels": "float32"}
    display = Display(plain_console(stderr=True))
    assert run_job(den, PLAN, None, out, inputs=Inputs.read(den, path, per_input=2), display=display, **options) == []
    lines = [4 + 3 * k for k in range(12)]
    notes = [line for line in capsys.readouterr().err.splitlines() if "tokens" in line]
    said = f"note: {path}, line {{}} has 3 tokens, and the encoder reads 2; the rest is left out"
    assert notes[:9] == [said.format(n) for n in lines[:9]]
    assert notes[9:] == [said.format(lines[9]) + "; further ones are in log.jsonl"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["line"] for line in log if line["event"] == "prompt truncated"] == lines
    assert run_job(den, PLAN, None, tmp_path / "b", inputs=Inputs.read(den, path, encode=told), **options) == []
    assert "prompt truncated" not in (tmp_path / "b" / "log.jsonl").read_text()  # another encoder may read more


@pytest.mark.parametrize("fits", [True, False])
def test_an_encoder_that_can_be_moved_works_where_samples_are_drawn(tmp_path, capsys, fits):
    moved, out = [], tmp_path / "out"

    class Encoder:
        def __call__(self, text):
            assert moved, "it is moved before the first prompt"
            return told(text)

        def to(self, device):
            moved.append(device)
            return fits

    (tmp_path / "p.txt").write_text("fox\nhen\n")
    den = replace(model(), encode=Encoder())
    display = Display(plain_console(stderr=True))
    run_job(den, PLAN, None, out, inputs=Inputs.read(den, tmp_path / "p.txt"), display=display, batch=8, sheets=0)
    assert moved == [torch.device("cpu")]
    said = "note: the text encoders do not fit into the memory of cpu and work where they were loaded"
    assert (said in capsys.readouterr().err) is not fits


def test_on_a_gpu_texts_are_encoded_on_a_stream_of_their_own(monkeypatch):
    """The sampler's stream waits for what it reads, and keeps its memory until it has read it. CUDA is made up here."""
    at_work, waited = [], []

    @contextmanager
    def stream(number):
        at_work.append(number)
        yield
        at_work.pop()

    class Encoder:
        def __call__(self, text):
            seen.append(list(at_work))
            return told(text)

        def to(self, device):
            return True

    class Value:
        device = torch.device("cuda:0")

        def record_stream(self, stream):
            waited.append((stream, "kept"))

    seen = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    work = Encoding(Encoder())
    assert work.to(torch.device("cuda:0"))
    work.of(["fox", "hen"])
    work.close()
    assert seen == [["stream of cuda:0"]] * 2
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(wait_event=waited.append))
    encoding._arrived({"embeds": Value()}, "encoded")
    assert waited[0] == "encoded" and waited[1][1] == "kept"
    plain = Encoding(told)
    assert plain.to(torch.device("cuda:0"))  # a function that cannot be moved stays, and nothing is said
    plain.of(["fox"])
    plain.close()


def test_an_error_of_the_encoder_reaches_the_job_and_the_job_goes_on_later(tmp_path, file):
    def fails(text):
        if text == TEXTS[9]:
            raise RestartValueError("the prompt has 91 tokens, and the encoder takes 77")
        return told(text)

    out = tmp_path / "out"
    options = {"batch": 8, "shard_size": 16, "sheets": 0, "format": "npz", "pixels": "float32"}
    with pytest.raises(RestartValueError, match="91 tokens"):
        run_job(model(), PLAN, None, out, inputs=Inputs.read(model(), file, encode=fails), **options)
    assert draw(out, file) == []
    draw(tmp_path / "want", file)
    assert tree(out) == tree(tmp_path / "want")


def test_conditions_from_arrays(tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    np.savez(tmp_path / "c.npz", embeds=values)
    draw(tmp_path / "out", tmp_path / "c.npz", per_input=4)
    found = samples(tmp_path / "out")
    assert len(found) == 20
    x = rs.sample(model(), PLAN, [13], batch_size=8, conditions={"embeds": torch.from_numpy(values[3])})[0].numpy()
    assert np.allclose(found[13], x, atol=1e-6)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "embeds.npy", values)
    np.save(tmp_path / "embeds.npy", values)
    for path in (tmp_path / "folder", tmp_path / "embeds.npy"):
        arrays = read_arrays(path, model().conditions)
        assert len(arrays) == 5
        assert torch.equal(arrays.of([4, 1, 1])["embeds"], torch.from_numpy(values[[4, 1, 1]]))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"embed": np.zeros((2, 3))}, r"has an array 'embed', which is no condition; did you mean .*embeds"),
        ({"embeds": np.zeros((2, 4))}, r"'embeds' has the shape \[2, 4\]; it must be \[inputs, 3\]"),
        ({"embeds": np.zeros((0, 3))}, r"holds no conditions; the network's are embeds"),
        ({"embeds": np.array([[0, 0, 0], [0, np.nan, 0]])}, r"'embeds' has NaN or infinite values at input 1"),
        ({"embeds": np.zeros((2, 3), complex)}, r"'embeds' holds complex128; the condition is float32 \[3\]"),
    ],
)
def test_conditions_that_do_not_fit(tmp_path, arrays, said):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(RestartValueError, match=said):
        read_arrays(tmp_path / "c.npz", model().conditions)


def test_arrays_of_several_conditions(tmp_path, monkeypatch):
    """As many values of each; NaN is found in any block, and any value is part of the digest."""
    monkeypatch.setattr(arrays, "BLOCK", 6)
    specs = {"embeds": rs.Condition((3,)), "scale": rs.Condition(())}
    path, values = tmp_path / "c.npz", {"embeds": np.arange(21.0).reshape(7, 3), "scale": np.arange(7.0)}
    np.savez(path, **values)
    known = read_arrays(path, specs)
    assert (len(known), known.of([6, 2])["embeds"].tolist()) == (7, [[18, 19, 20], [6, 7, 8]])
    np.savez(path, **values | {"scale": values["scale"] + np.eye(7)[6]})
    assert read_arrays(path, specs).sha256 != known.sha256
    values["embeds"][5, 1] = np.nan
    np.savez(path, **values)
    with pytest.raises(RestartValueError, match="'embeds' has NaN or infinite values at input 5"):
        read_arrays(path, specs)
    np.savez(path, **values | {"scale": np.arange(6.0)})
    with pytest.raises(RestartValueError, match=r"different numbers of inputs \(embeds 7, scale 6\); give as many"):
        read_arrays(path, specs)


def test_inputs_that_contradict_each_other(tmp_path, file):
    with pytest.raises(RestartValueError, match="give one of a file of prompts, a file of conditions, and images"):
        Inputs.read(model())
    with pytest.raises(RestartValueError, match="takes no prompts"):
        Inputs.read(replace(model(), encode=None), file)
    with pytest.raises(RestartValueError, match="per_input must be"):
        Inputs.read(model(), file, per_input=0)
    with pytest.raises(RestartValueError, match="give seeds, or inputs"):
        run_job(model(), PLAN, "0-3", tmp_path / "out", inputs=Inputs.read(model(), file))
    assert not (tmp_path / "out").exists()


def test_conditions_go_to_the_sampler_s_device(tmp_path, file, monkeypatch):
    """Texts are encoded where the encoder is, which may be the host of a GPU; a sampler refuses tensors from there."""
    inputs = Inputs.read(model(), file)
    assert inputs.told(np.array([0, 3]), "meta")["embeds"].device.type == "meta"
    asked = []
    told = Inputs.told
    monkeypatch.setattr(
        Inputs, "told", lambda self, seeds, device: (asked.append(device), told(self, seeds, device))[1]
    )
    draw(tmp_path / "out", file)
    assert set(asked) == {torch.device("cpu")}


def test_formats_know_the_prompt(tmp_path, file):
    import tarfile

    draw(tmp_path / "out", file, per_input=2, format="wds", negative="blurred")
    with tarfile.open(tmp_path / "out" / "samples" / "shard-000001.tar") as archive:
        record = json.loads(archive.extractfile("000017.json").read())
    plan = record.pop("plan")
    assert plan == PLAN.digest
    assert record == {"seed": 17, "class": None, "input": 8, "k": 1, "prompt": TEXTS[8], "negative_prompt": "blurred"}


def test_the_noise_of_a_sample_is_that_of_its_seed(tmp_path, file):
    """With the same seeds, all inputs begin with the same latents; the made-up network is linear, so that shows."""
    draw(tmp_path / "out", file, per_input=2, same_seeds=True, first_seed=5)
    found = samples(tmp_path / "out")
    for a, b in itertools.pairwise(range(4)):
        same = found[5 + 2 * a] - found[5 + 2 * b]
        assert np.ptp(same, axis=(1, 2)).max() < 1e-3  # only the colour differs, but for the rounding at sigma 80
    assert np.ptp(found[5] - found[6], axis=(1, 2)).min() > 0.5


def test_several_samples_of_each_start_image(tmp_path):
    """Sample k of image i begins with image i and the noise of its seed; the folder is read as it is needed."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{k}.png")
    den = rs.load("fashion-mnist")
    images = read_images("start", tmp_path / "pictures", den.shape)
    inputs = Inputs.read(den, images=images, per_input=2, first_seed=10)
    options = {"batch": 8, "sheets": 0, "format": "npz", "pixels": "float32", "label": 3}
    assert run_job(den, PLAN, None, tmp_path / "out", inputs=inputs, start=images, strength=0.6, **options) == []
    found = samples(tmp_path / "out")
    assert list(found) == list(range(10, 20))
    start = torch.from_numpy(pixels[3] / np.float32(127.5) - np.float32(1))[None, None]
    x = rs.Sampler(den, PLAN, 8).run([17], 3, start=start, strength=0.6)[0].numpy()
    assert np.allclose(found[17], x, atol=1e-5)
    again = Inputs.read(den, images=read_images("start", tmp_path / "pictures", den.shape), per_input=2, first_seed=10)
    assert run_job(den, PLAN, None, tmp_path / "out", inputs=again, start=images, strength=0.6, **options) == []
    with pytest.raises(RestartValueError, match="is one image for all samples"):
        Inputs.read(den, images=read_images("start", tmp_path / "pictures" / "0.png", den.shape))
    with pytest.raises(RestartValueError, match=r"has 5 images for 20 seeds; give one for all, or one for each 2"):
        images.check(20, 2)
