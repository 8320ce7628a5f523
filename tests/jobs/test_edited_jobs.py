"""Jobs that begin with images, and jobs that keep a part of one: what files say, what a resume and a repeat accept."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from support import killing
from support.commands import run

import restart_sampling as rs
from restart_sampling.common.errors import ConfigError, OutputError, RestartError, RestartTypeError, RestartValueError
from restart_sampling.jobs import images as module
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.images import read_images
from restart_sampling.jobs.verify import verify

SHAPE = (1, 8, 8)
PLAN = rs.Plan.build(**killing.PLAN)
SEEDS = [5, 40, 3, 17, 16, 90, 4]  # in three shards, and in no order
MASK = np.zeros((8, 8), np.uint8)
MASK[:, 4:] = 255
SOFT = MASK.copy()
SOFT[:, 4] = 128  # where the noise of the known image shows in the sample, though the network looks at each pixel alone


def bytes_of(seed, n=None):
    """Made-up pictures, uint8 [1, 8, 8] or [n, 1, 8, 8]."""
    return np.random.default_rng(seed).integers(0, 256, SHAPE if n is None else (n, *SHAPE), np.uint8)


def floats(image):
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def save(path, image):
    """A picture of bytes [1, H, W]."""
    Image.fromarray(image[0]).save(path)
    return path


def draw(out, seeds=SEEDS, denoiser=None, **options):
    options = dict(batch=8, shard_size=16, sheets=0, format="npz", pixels="float32") | options
    return run_job(denoiser or killing.denoiser(), options.pop("plan", PLAN), seeds, out, **options)


def samples(out):
    """The float32 samples of a job of npz files, by seed."""
    found = {}
    for path in sorted((out / "samples").glob("*.npz")):
        with np.load(path) as file:
            found |= dict(
                zip(file["seeds"].tolist(), file["samples"] if "samples" in file else file["arr_0"], strict=True)
            )
    return found


def record(out):
    return json.loads((out / "run.json").read_text())


def exit_code(out):
    *_, (_, report) = verify(out)
    return report.exit_code


def expected(seeds=SEEDS, plan=PLAN, **edits):
    x = rs.Sampler(killing.denoiser(), plan, batch_size=16).run(seeds, **edits)
    return dict(zip(seeds, x.numpy(), strict=True))


def same(found, wanted):
    return found.keys() == wanted.keys() and all(np.array_equal(found[seed], wanted[seed]) for seed in wanted)


# --- what is drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [{"strength": 0.5}, {"sigma": 5.0}], ids=str)
def test_a_job_from_an_image_is_the_sampler_s_run(where, tmp_path):
    image = bytes_of(0)
    draw(tmp_path / "job", start=save(tmp_path / "start.png", image), **where)
    wanted = expected(start=torch.from_numpy(floats(image)), **where)
    assert same(samples(tmp_path / "job"), wanted)
    assert not same(wanted, expected())
    assert exit_code(tmp_path / "job") == 0


def test_a_job_with_a_mask_keeps_the_image(tmp_path):
    """To the bit in float32, and to the byte in pictures."""
    image = bytes_of(0)
    files = {"known": save(tmp_path / "known.png", image), "mask": save(tmp_path / "mask.png", SOFT[None])}
    edits = {"known": floats(image), "mask": SOFT.astype(np.float32) / np.float32(255)}
    for paste in (None, "initial", "fresh"):
        out = tmp_path / str(paste)
        draw(out, **files, paste=paste)
        assert same(samples(out), expected(**edits, paste=paste or "initial"))
        assert record(out)["edits"]["paste"] == (paste or "initial")
    assert same(samples(tmp_path / "None"), samples(tmp_path / "initial"))
    assert not same(samples(tmp_path / "initial"), samples(tmp_path / "fresh"))
    draw(tmp_path / "png", **files, format="png", pixels="uint8")
    for seed in SEEDS:
        picture = np.asarray(Image.open(tmp_path / "png" / "samples" / f"{seed:06d}.png"))
        assert np.array_equal(picture[:, :4], image[0][:, :4])
        assert not np.array_equal(picture[:, 4:], image[0][:, 4:])


class OutOfMemory:
    """Fails with more than 3 samples."""

    def __call__(self, x, sigma):
        if len(x) > 3:
            raise torch.OutOfMemoryError("made up")
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))


def broken_once(bad):
    """A denoiser whose first evaluation gives NaN to one sample: that one is drawn again."""
    calls = []

    def D(x, sigma):
        calls.append(len(x))
        result = torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)))
        if len(calls) == 1:
            result[bad] = float("nan")
        return result

    return rs.Denoiser.from_function(D, SHAPE, name="tanh")


@pytest.mark.parametrize("how", ["npy", "npz", "folder", "array", "tensor", "channels last"])
def test_one_image_for_each_seed_in_order(how, tmp_path):
    """Whatever the shards, the batches and the order of the seeds."""
    every = bytes_of(1, len(SEEDS))
    given = tmp_path / f"every.{how}"
    if how == "npy":
        np.save(given, floats(every).astype(np.float64))
    elif how == "npz":
        np.savez(given, images=every, labels=np.arange(len(every)))
    elif how == "channels last":
        given = tmp_path / "every.npz"
        np.savez(given, arr_0=np.moveaxis(every, 1, -1))
    elif how == "folder":
        for k, image in enumerate(every):
            (given / f"part-{k // 4}").mkdir(parents=True, exist_ok=True)
            save(given / f"part-{k // 4}" / f"{k:02d}.png", image)
    else:
        given = floats(every) if how == "array" else torch.from_numpy(every)
    wanted = expected(start=torch.from_numpy(floats(every)), strength=0.5)
    draw(tmp_path / "job", start=given, strength=0.5)
    assert same(samples(tmp_path / "job"), wanted)
    assert record(tmp_path / "job")["edits"]["each"] == ["start"]
    assert record(tmp_path / "job")["edits"] == {
        "start": read_images("start", every, SHAPE).sha256,
        "strength": 0.5,
        "each": ["start"],
    }


def test_samples_that_are_drawn_again_have_their_own_images(tmp_path):
    """In smaller batches after running out of memory, and in float32 after NaN."""
    every = floats(bytes_of(1, len(SEEDS)))
    edits = {"start": torch.from_numpy(every), "strength": 0.5}
    wanted = expected(**edits)
    den = rs.Denoiser.from_function(OutOfMemory(), SHAPE, name="tanh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("restart_sampling.jobs.source.SMALLEST", 1)
        draw(tmp_path / "memory", denoiser=den, batch=7, **edits)
    assert same(samples(tmp_path / "memory"), wanted)
    draw(tmp_path / "nan", denoiser=broken_once(4), **edits)
    assert "not finite" in (tmp_path / "nan" / "log.jsonl").read_text()
    assert same(samples(tmp_path / "nan"), wanted)


def test_masks_for_each_seed_and_soft_ones(tmp_path):
    masks = np.random.default_rng(3).random((len(SEEDS), *SHAPE)).astype(np.float32)
    known = floats(bytes_of(0))
    draw(tmp_path / "job", known=known, mask=masks)
    assert same(samples(tmp_path / "job"), expected(known=known, mask=masks))
    assert record(tmp_path / "job")["edits"]["each"] == ["mask"]
    assert record(tmp_path / "job")["edit_files"] == {}


def test_the_record_says_what_ran(tmp_path):
    plan = rs.Plan.build(steps=8, restart={"0": [3, 2, 0.1, 1.0], "1": [3, 1, 5.0, 40.0]})
    path = save(tmp_path / "start.png", bytes_of(0))
    draw(tmp_path / "job", plan=plan, start=str(path), strength=0.5)
    found, runs = record(tmp_path / "job"), rs.Sampler(killing.denoiser(), plan)
    assert found["edits"] == {"start": read_images("start", path, SHAPE).sha256, "strength": 0.5}
    assert found["edit_files"] == {"start": str(path)}
    assert found["plan"] == json.loads(json.dumps(plan.config.to_dict()))
    rows = list(runs.trace([0], start=torch.zeros(SHAPE), strength=0.5))
    assert found["nfe"] == len(rows) < plan.nfe
    assert any("is left out of a run that begins at" in note for note in found["notes"])


# --- which images are the same -----------------------------------------------------------------------------------


def test_images_are_the_same_by_their_pixels(tmp_path):
    image = bytes_of(0)
    np.save(tmp_path / "bytes.npy", image)
    np.save(tmp_path / "floats.npy", floats(image)[None])
    np.savez(tmp_path / "one.npz", whatever=image)
    Image.fromarray(np.repeat(image.transpose(1, 2, 0), 3, 2)).save(tmp_path / "rgb.png")
    save(tmp_path / "grey.bmp", image)
    files = [tmp_path / name for name in ("bytes.npy", "floats.npy", "one.npz", "rgb.png", "grey.bmp")]
    sums = {read_images("start", given, SHAPE).sha256 for given in [*files, image, torch.from_numpy(floats(image))]}
    assert len(sums) == 1
    other = image.copy()
    other[0, 3, 3] ^= 1
    assert read_images("start", other, SHAPE).sha256 not in sums


def test_masks_are_the_same_by_what_they_stretch_to():
    grey = [MASK, MASK[None], MASK > 0, (MASK / 255)[None, None], MASK.astype(np.float32)[None] / 255]
    sums = {read_images("mask", given, (3, 8, 8)).sha256 for given in [*grey, np.repeat(MASK[None], 3, 0)]}
    assert len(sums) == 1
    assert read_images("mask", MASK, (3, 8, 8)).sha256 != read_images("mask", 255 - MASK, (3, 8, 8)).sha256


def test_grey_pictures_serve_networks_of_colours(tmp_path):
    found = read_images("start", save(tmp_path / "a.png", bytes_of(0)), (3, 8, 8))
    assert np.array_equal(found.of(np.zeros(1)), np.repeat(floats(bytes_of(0)), 3, 0))


def test_a_digest_is_that_of_all_blocks(monkeypatch):
    every = bytes_of(1, 20)
    whole = read_images("start", every, SHAPE).sha256
    monkeypatch.setattr(module, "BLOCK", 3)
    assert read_images("start", every, SHAPE).sha256 == whole
    every[19, 0, 7, 7] ^= 1
    assert read_images("start", every, SHAPE).sha256 != whole


def test_workers_read_files_themselves_and_see_when_they_change(tmp_path):
    path = tmp_path / "every.npy"
    np.save(path, bytes_of(1, 200))
    found = read_images("start", path, SHAPE)
    sent = pickle.dumps(found)
    assert len(sent) < 1000 < len(pickle.dumps(read_images("start", bytes_of(1, 200), SHAPE)))
    places = np.array([3, 199])
    assert np.array_equal(pickle.loads(sent).of(places), floats(bytes_of(1, 200))[places])
    np.save(path, bytes_of(2, 200))
    with pytest.raises(RestartValueError, match=r"every\.npy has changed while the job runs"):
        pickle.loads(sent)


# --- resuming ----------------------------------------------------------------------------------------------------


def test_a_job_that_is_killed_gives_the_same_bytes(tmp_path):
    """Killed with a shard half drawn, resumed in other batches."""
    np.save(tmp_path / "every.npy", bytes_of(1, 120))
    edits = {"start": tmp_path / "every.npy", "strength": 0.9, "known": bytes_of(2), "mask": MASK}
    options = {"seeds": "0-119", "shard_size": 60, **edits}
    draw(tmp_path / "want", **options)

    def slow():
        draw(tmp_path / "job", denoiser=killing.denoiser(0.02), keep_seconds=0.0, **options)

    child = killing.fork(slow)
    killing.until(lambda: [*tmp_path.glob("job/.parts/*")])
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before = record(tmp_path / "job")
    assert not [*tmp_path.glob("job/samples/*")]
    assert [*tmp_path.glob("job/.parts/*")]
    draw(tmp_path / "job", batch=13, **options)
    assert killing.tree(tmp_path / "job") == killing.tree(tmp_path / "want")
    assert record(tmp_path / "job") == before
    assert exit_code(tmp_path / "job") == 0


CHANGES = {
    "a changed file": (
        {},
        r"start .*start\.png is the image with SHA-256 [0-9a-f]{12}… there and the image with SHA-256",
    ),
    "another strength": ({"strength": 0.6}, "strength is 0.5 there and 0.6 here"),
    "a level": ({"strength": None, "sigma": 5.0}, "strength is 0.5 there and not given here; sigma is not given there"),
    "nothing": ({"start": None, "strength": None}, "start is the image .* there and not given here"),
    "a mask": ({"known": bytes_of(0), "mask": MASK}, "known is not given there and the image .*paste is not given"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_goes_on_with_the_same_edits_alone(name, tmp_path):
    given, message = CHANGES[name]
    path = save(tmp_path / "start.png", bytes_of(0))
    edits = {"start": path, "strength": 0.5}
    draw(tmp_path / "job", **edits)
    before = {path.name: path.read_bytes() for path in (tmp_path / "job").iterdir() if path.is_file()}
    if name == "a changed file":
        save(path, bytes_of(9))
    with pytest.raises(OutputError, match=message) as refused:
        draw(tmp_path / "job", **edits | given)
    assert "\n" not in str(refused.value)
    after = {path.name: path.read_bytes() for path in (tmp_path / "job").iterdir() if path.is_file()}
    assert after == before


def test_a_job_without_edits_does_not_go_on_with_some(tmp_path):
    draw(tmp_path / "job")
    with pytest.raises(OutputError, match=r"start is not given there and the image with SHA-256 .* here"):
        draw(tmp_path / "job", start=bytes_of(0), strength=0.5)


def test_seeds_are_added_where_one_image_serves_all(tmp_path):
    edits = {"start": bytes_of(0), "strength": 0.5}
    draw(tmp_path / "job", seeds="0-19", **edits)
    draw(tmp_path / "job", seeds="0-39", **edits)
    draw(tmp_path / "want", seeds="0-39", **edits)
    assert killing.tree(tmp_path / "job") == killing.tree(tmp_path / "want")
    assert record(tmp_path / "job")["edits"] == record(tmp_path / "want")["edits"]


def test_images_stay_with_their_seeds(tmp_path):
    every = bytes_of(1, 3)
    draw(tmp_path / "job", seeds=[5, 3, 4], start=every, strength=0.5)
    with pytest.raises(OutputError, match=r"an image for each seed in their order, so the seeds .* must stay 5,3-4"):
        draw(tmp_path / "job", seeds=[3, 4, 5], start=every, strength=0.5)
    with pytest.raises(RestartValueError, match="start has 3 images for 4 seeds; give one for all, or one for each"):
        draw(tmp_path / "job", seeds=[5, 3, 4, 6], start=every, strength=0.5)


def test_without_edits_run_json_has_no_word_of_them(tmp_path):
    """Also after seeds are added, and with a paste that pastes nothing."""
    draw(tmp_path / "job", seeds="0-9", paste="initial")
    draw(tmp_path / "job", seeds="0-19")
    assert not {"edits", "edit_files"} & record(tmp_path / "job").keys()


# --- run.json and repeats ----------------------------------------------------------------------------------------

MODEL = ["--steps", "3", "--seeds", "0-2", "--class", "Bag", "--restart", "none"]


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A job of the bundled model with a start image, a known image and a mask, as it is typed; not to be changed."""
    base = tmp_path_factory.mktemp("typed")
    for k, name in enumerate(("start", "known")):
        image = np.random.default_rng(k).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(image).save(base / f"{name}.png")
    mask = np.zeros((28, 28), np.uint8)
    mask[:, 14:] = 255
    Image.fromarray(mask).convert("RGB").save(base / "mask.png")
    return base


def command(base, out, *more):
    edits = [
        "--start",
        base / "start.png",
        "--start-sigma",
        "6",
        "--known",
        base / "known.png",
        "--mask",
        base / "mask.png",
    ]
    return ["generate", *MODEL, *edits, "--paste", "fresh", "--out", out, *more]


@pytest.fixture
def job(typed, tmp_path, capsys):
    shutil.copytree(typed, tmp_path / "in")
    code, _, err = run(capsys, *command(tmp_path / "in", tmp_path / "job"))
    assert code == 0, err
    return tmp_path / "job"


def test_the_command_line_draws_what_python_draws(job, tmp_path, capsys):
    def pixels(name):
        return torch.from_numpy(floats(np.asarray(Image.open(tmp_path / "in" / f"{name}.png").convert("L"))[None]))

    plan = rs.Plan.build(steps=3)
    edits = {"start": pixels("start"), "sigma": 6.0, "known": pixels("known"), "mask": (pixels("mask") + 1) / 2}
    x = rs.Sampler(rs.load("fashion-mnist-edm2"), plan, batch_size=8, batch_invariant=True).run(
        [0, 1, 2, 2, 2, 2, 2, 2], "Bag", **edits, paste="fresh"
    )
    wanted = ((x[:3] * 127.5 + 128).clamp(0, 255)).to(torch.uint8)
    for seed in range(3):
        found = np.asarray(Image.open(job / "samples" / f"{seed:06d}.png"))
        assert np.array_equal(found, wanted[seed, 0].numpy())
    assert run(capsys, *command(tmp_path / "in", job))[0] == 0  # it is the same job
    assert run(capsys, "verify", job)[0] == 0
    assert run(capsys, "status", job)[0] == 0


def test_a_repeat_and_a_repair_read_the_images_again(job, tmp_path, capsys):
    wanted = killing.tree(job)
    assert run(capsys, "generate", "--repeat", job, "--out", tmp_path / "again")[0] == 0
    assert killing.tree(tmp_path / "again") == wanted
    (job / "samples" / "000001.png").unlink()
    assert run(capsys, "verify", job)[0] == 3
    assert run(capsys, "verify", job, "--repair")[0] == 0
    assert killing.tree(job) == wanted


def refused(capsys, *arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_images_that_have_moved_or_changed_since(job, tmp_path, capsys):
    wanted, there = killing.tree(job), tmp_path / "in"
    repeat = ["generate", "--repeat", job, "--out", tmp_path / "again"]
    (there / "known.png").rename(there / "moved.png")
    assert "in/known.png; say with --known where it is now" in refused(capsys, *repeat)
    assert run(capsys, *repeat, "--known", there / "moved.png")[0] == 0
    assert killing.tree(tmp_path / "again") == wanted
    shutil.rmtree(tmp_path / "again")
    shutil.copy(there / "start.png", there / "known.png")
    assert "in/known.png does not have the pixels of the recorded run (sha256" in refused(capsys, *repeat)
    assert "leave out --paste" in refused(capsys, *repeat, "--paste", "fresh")
    assert "leave out --start-sigma" in refused(capsys, *repeat, "--start-sigma", "6")
    assert not (tmp_path / "again").exists()


def test_a_repeat_of_what_came_from_no_file_needs_one(tmp_path, capsys):
    model, image = rs.load("fashion-mnist"), np.zeros((1, 28, 28), np.float32)
    run_job(model, rs.Plan.build(steps=3), "0-1", tmp_path / "job", start=image, sigma=3.0, sheets=0)
    repeat = ["generate", "--repeat", tmp_path / "job", "--out", tmp_path / "again"]
    assert "came from no file; give it with --start" in refused(capsys, *repeat)
    assert "has no mask image; leave out --mask" in refused(capsys, *repeat, "--mask", "m.png")
    np.save(tmp_path / "zero.npy", image)
    assert run(capsys, *repeat, "--start", tmp_path / "zero.npy")[0] == 0
    assert killing.tree(tmp_path / "again") == killing.tree(tmp_path / "job")


WRONG = {
    "no hash": {"start": "abc", "strength": 0.5},
    "another option": {"churn": 1.0},
    "a strength of text": {"strength": "0.5"},
    "a negative level": {"sigma": -1.0},
    "an unknown paste": {"paste": "often"},
    "each of nothing": {"strength": 0.5, "each": ["start"]},
    "each a number": {"strength": 0.5, "each": 3},
    "nothing": {},
    "a list": [1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_entry_of_run_json_is_one_sentence(name, tmp_path, capsys):
    draw(tmp_path / "job")
    values = record(tmp_path / "job") | {"edits": WRONG[name]}
    values.pop("job_digest")
    (tmp_path / "job" / "run.json").write_text(json.dumps(values))
    assert "'edits' must be an object of SHA-256, strength" in refused(capsys, "verify", tmp_path / "job")


def test_edits_of_run_json_are_sealed(tmp_path, capsys):
    draw(tmp_path / "job", start=bytes_of(0), strength=0.5)
    for edits in ({"strength": 0.75}, {"start": "0" * 64}, ...):
        values = record(tmp_path / "job")
        if edits is ...:
            del values["edits"]
        else:
            values["edits"] |= edits
        (tmp_path / "changed").mkdir(exist_ok=True)
        (tmp_path / "changed" / "run.json").write_text(json.dumps(values))
        assert "'job_digest' is that of other values" in refused(capsys, "verify", tmp_path / "changed")


# --- what is refused ---------------------------------------------------------------------------------------------


def other(kind, tmp_path):
    """A file that cannot be an image of samples [1, 8, 8]."""
    path = tmp_path / f"{kind}.png"
    if kind == "large":
        save(path, np.zeros((1, 9, 8), np.uint8))
    elif kind == "colour":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    elif kind == "transparent":
        Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(path)
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "shape":
        np.save(path := tmp_path / "shape.npy", np.zeros((3, 8, 8), np.float32))
    elif kind == "integers":
        np.save(path := tmp_path / "integers.npy", np.zeros(SHAPE, np.int64))
    elif kind == "objects":
        np.save(path := tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    elif kind == "nan":
        np.save(path := tmp_path / "nan.npy", np.full(SHAPE, np.nan))
    elif kind == "cut":
        np.save(path := tmp_path / "cut.npy", np.zeros(SHAPE))
        path.write_bytes(path.read_bytes()[:-8])
    elif kind == "several":
        np.savez(path := tmp_path / "several.npz", a=np.zeros(SHAPE), b=np.zeros(SHAPE))
    elif kind == "empty":
        (path := tmp_path / "empty").mkdir()
    elif kind == "name":
        (path := tmp_path / "a.txt").touch()
    elif kind == "count":
        np.save(path := tmp_path / "count.npy", np.zeros((5, *SHAPE), np.uint8))
    return path


FILES = {
    "large": "has 9×8, 1 channel; it must have 8×8, 1 channel, as the samples have",
    "colour": "has 8×8, 3 channels; it must have 8×8, 1 channel",
    "transparent": "is transparent",
    "text": "is not a picture that can be read",
    "shape": "has the shape [3, 8, 8]; it must be [1, 8, 8], or [n, 1, 8, 8] with one for each seed",
    "integers": "holds int64; images are bytes, or floats in [-1, 1]",
    "objects": "cannot be read",
    "nan": "holds NaN or infinite values",
    "cut": "cannot be read",
    "several": "holds a, b; images are arr_0, images or one array",
    "empty": "holds no pictures",
    "name": "is no picture",
    "count": "has 5 images for 7 seeds",
    "missing": "there is no such file or folder",
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("purpose", ["start", "known"])
def test_files_that_do_not_fit_are_one_sentence(kind, purpose, tmp_path):
    path = other(kind, tmp_path)
    edits = {"start": path, "strength": 0.5} if purpose == "start" else {"known": path, "mask": MASK}
    with pytest.raises(RestartError) as found:
        draw(tmp_path / "job", **edits)
    assert FILES[kind] in str(found.value)
    assert str(path) in str(found.value) and purpose in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "job").exists()


TOGETHER = {
    "strength alone": ({"strength": 0.5}, RestartValueError, "give start as well"),
    "start alone": ({"start": bytes_of(0)}, RestartValueError, "start needs one of strength .*, got neither"),
    "both": ({"start": bytes_of(0), "strength": 0.5, "sigma": 3.0}, RestartValueError, "got both"),
    "no mask": ({"known": bytes_of(0)}, RestartValueError, "known and mask go together"),
    "no known": ({"mask": MASK}, RestartValueError, "known and mask go together"),
    "paste alone": ({"paste": "fresh"}, RestartValueError, "give known and mask as well"),
    "another paste": ({"known": bytes_of(0), "mask": MASK, "paste": "new"}, RestartValueError, "paste must be one of"),
    "no step": ({"start": bytes_of(0), "strength": 0.1}, ConfigError, "leaves no step to run"),
    "strength of 2": ({"start": bytes_of(0), "strength": 2.0}, ConfigError, "strength must be"),
    "the end": ({"start": bytes_of(0), "sigma": 1e-6}, ConfigError, "no step is left to run"),
    "a list": ({"start": [0.0], "strength": 0.5}, RestartTypeError, "start must be a file, an array or a tensor"),
    "mask of 2": ({"known": bytes_of(0), "mask": MASK / 100}, RestartValueError, "masks are from 0 .kept. to 1 .free."),
    "mask of integers": (
        {"known": bytes_of(0), "mask": MASK.astype(int)},
        RestartTypeError,
        "bytes, booleans or floats",
    ),
    "mask of a size": (
        {"known": bytes_of(0), "mask": MASK[:5]},
        RestartValueError,
        "or a shape that stretches to these",
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_does_not_go_together_is_refused_before_anything_is_written(name, tmp_path):
    edits, error, message = TOGETHER[name]
    with pytest.raises(error, match=message) as found:
        draw(tmp_path / "job", **edits)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "job").exists()


def test_a_network_that_cannot_paste_says_so_before_anything_is_written(tmp_path):
    den = rs.Denoiser.from_function(lambda x, sigma: 0.5 * x, SHAPE, augmented_dim=128)
    with pytest.raises(RestartValueError, match="a known image is not pasted with a PFGM"):
        draw(tmp_path / "job", denoiser=den, known=bytes_of(0), mask=MASK)
    assert not (tmp_path / "job").exists()


def test_samples_that_are_no_images_begin_with_arrays(tmp_path):
    den = rs.Denoiser.from_function(lambda x, sigma: torch.tanh(x), (5,), name="tanh")
    start = np.linspace(-1, 1, 5)
    draw(tmp_path / "job", denoiser=den, start=start, strength=0.5)
    wanted = rs.Sampler(den, PLAN, batch_size=8).run([5], start=torch.from_numpy(start).float(), strength=0.5)
    assert np.array_equal(samples(tmp_path / "job")[5], wanted[0].numpy())
    with pytest.raises(RestartValueError, match=r"is a picture, and samples are \[5\]; give a .npy or .npz"):
        draw(tmp_path / "other", denoiser=den, start=save(tmp_path / "a.png", bytes_of(0)), strength=0.5)
