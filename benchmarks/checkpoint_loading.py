r"""Loading a checkpoint of CIFAR-10's size (55.7 million parameters, 213 MiB): this package beside plain pickle.

The file is forged in EDM's format (tests/support/pickle_forge.py): DDPM++ with the published arguments. Plain pickle
reads the same bytes with Python's own C unpickler, executes none of the code in them and builds no network. This
package's time is that of `rs.load`: the SHA-256 of the file, reading, checking every tensor, and building the network.
Both take turns; rows are medians and quartiles.

    python benchmarks/checkpoint_loading.py              # writes results/checkpoint_loading.json
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import pickle_forge as forge
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure.timing import interleaved, quartiles, ratios
from restart_sampling.models import build_network

CIFAR10 = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "augment_dim": 9,
    "channel_mult": [2, 2, 2],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar10.pkl"
        path.write_bytes(forge.snapshot(build_network(CIFAR10, seed=0)))

        def plain() -> None:
            with path.open("rb") as file:
                forge.Plainly(file).load()

        seconds = interleaved({"ours": lambda: rs.load(path), "pickle": plain}, arguments.rounds, warm=1)
        q1, median, q3 = ratios(seconds["ours"], seconds["pickle"])
        row = {
            "mib": round(path.stat().st_size / 2**20, 1),
            "seconds": {name: [round(v, 3) for v in quartiles(seconds[name])] for name in ("ours", "pickle")},
            "times_plain_pickle": {"q1": round(q1, 2), "median": round(median, 2), "q3": round(q3, 2)},
            "rounds": arguments.rounds,
            "disturbed": seconds.disturbed,
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    print(json.dumps(row, indent=1))
    (RESULTS / "checkpoint_loading.json").write_text(json.dumps({**environment(), **row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
