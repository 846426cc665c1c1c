"""Segment a photograph: eight Gaussians in the space of its colours.

The pixels lie in a Zarr array of height × width × 3, chunked along both axes of the image; the
labels come back in the shape of the image. The picture that is written shows the photograph, the
mean colour of each pixel's component beside it, and below both the components' weights. Needs
pillow. The picture in the README was made by
``python examples/segment_photograph.py --width 900 --output examples/segmented.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import zarr
from PIL import Image
from sklearn.datasets import load_sample_image

from dask_gmm import GaussianMixture

CHUNKS = (128, 160, 3)
GAP, BAR = 12, 18  # pixels: white between the pictures, and the bar of weights


def segment(path: Path) -> tuple[GaussianMixture, np.ndarray]:
    """Fit the colours of the image at `path` and label its pixels."""
    # All four starts advance in the same reads of the data; the best end is kept.
    gm = GaussianMixture(n_components=8, init_params="k-means++", n_init=4, random_state=0)
    gm.set_params(search="off")  # the most likely mixture spends six of eight on shades of the sky
    gm.fit(path)
    return gm, np.asarray(gm.predict(path))  # read and labelled here


def paint(photograph: np.ndarray, gm: GaussianMixture, labels: np.ndarray) -> Image.Image:
    """Put the photograph, its segmentation and the weights of the colours into one picture."""
    height, width, _ = photograph.shape
    colours = np.rint(gm.means_).clip(0, 255).astype(np.uint8)
    picture = np.full((height + GAP + BAR, 2 * width + GAP, 3), 255, dtype=np.uint8)
    picture[:height, :width] = photograph
    picture[:height, width + GAP :] = colours[labels]
    dark_to_light = np.argsort(colours.sum(axis=1))
    edges = np.cumsum(gm.weights_[dark_to_light]) * picture.shape[1]
    component = np.searchsorted(edges[:-1], np.arange(picture.shape[1]), side="right")
    picture[height + GAP :] = colours[dark_to_light[component]]
    return Image.fromarray(picture)


def main(output: Path, width: int | None) -> None:
    photograph = load_sample_image("china.jpg")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "china.zarr"
        zarr.create_array(path, data=photograph, chunks=CHUNKS)
        gm, labels = segment(path)
    print(f"{gm.outcome_}: {gm.n_rows_:,} pixels, {gm.n_passes_} passes, 4 starts")
    print(f"labels of shape {labels.shape}, {len(np.unique(labels))} components")
    picture = paint(photograph, gm, labels)
    if width is not None:  # a small file: fewer pixels, and 256 colours that suit them
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS).quantize(256, kmeans=1)
    picture.save(output, optimize=True)
    print(f"wrote {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("segmented.png"))
    parser.add_argument("--width", type=int, help="pixels; by default every pixel of both")
    arguments = parser.parse_args()
    main(arguments.output, arguments.width)
