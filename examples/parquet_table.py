"""Fit a mixture to a Parquet table on two workers, and write a label for each row beside its name.

The table is made first, a file at a time; what a user writes is in `classify`. With ``--rows`` it
has as many rows as you like: no worker ever holds more than a few row groups of it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client, LocalCluster

from dask_gmm import GaussianMixture

FEATURES = ["colour", "magnitude", "parallax", "speed"]
CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 0.0, 2.0], [0.0, 5.0, 3.0, -2.0]])
WEIGHTS = [0.6, 0.3, 0.1]


def write_table(folder: Path, rows: int, files: int = 8) -> None:
    """Write stars of three kinds: an identifier, a name of the field, and four measurements."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i, ids in enumerate(np.array_split(np.arange(rows), files)):
        kinds = rng.choice(3, len(ids), p=WEIGHTS)
        values = CENTRES[kinds] + rng.standard_normal((len(ids), 4))
        columns = dict(zip(FEATURES, values.T, strict=True))
        fields = np.char.add("f", (ids % 97).astype(str))
        table = pa.table({"star": ids, "field": fields, **columns})
        pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=250_000)


def classify(stars: Path, labels: Path) -> GaussianMixture:
    """Fit on two workers of half a gigabyte, and write the labels as a table like the stars'."""
    workers: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "512MiB"}
    with (
        LocalCluster(dashboard_address=None, **workers) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster),  # type: ignore[no-untyped-call]
    ):
        gm = GaussianMixture(n_components=3, columns=FEATURES, random_state=0)
        gm.fit(stars)
        gm.predict_to(stars, labels, keep=["star", "field"])
    return gm


def main(directory: Path, rows: int) -> None:
    stars, labels = directory / "stars", directory / "labels.parquet"
    write_table(stars, rows)
    gm = classify(stars, labels)
    print(f"{gm.outcome_}: {gm.n_rows_:,} rows of {', '.join(gm.feature_names_in_)}")
    print(f"weights: {np.sort(gm.weights_)[::-1].round(2)}")
    found = pq.read_table(labels)
    print(f"labels: {found.num_rows:,} rows of {', '.join(found.column_names)}")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (stars, labels)]
    print(f"the same files: {names[0] == names[1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), arguments.rows)
