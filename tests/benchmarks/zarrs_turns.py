"""zarrs' turns for `bench_reader`, run by an interpreter that has `zarrs`.

It is told an array's path, the rows of a block and a number of threads on the command line. For
each line it reads it reads all blocks and writes the wall and CPU seconds.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import zarr
import zarrs  # noqa: F401  registers its pipeline

path, rows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
zarr.config.set(
    {
        "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
        "threading.max_workers": threads,
        "codec_pipeline.chunk_concurrent_maximum": threads,
    }
)
array = zarr.open_array(path, mode="r")
starts = range(0, array.shape[0], rows)


def read(start: int) -> None:
    array[start : start + rows]


with ThreadPoolExecutor(threads) as pool:
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        if threads == 1:
            for start in starts:
                read(start)
        else:
            list(pool.map(read, starts))
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
