"""Processes that die at a step of their writing, one step after the other.

Of a hundred and more steps most are alike, those that put one of many arrays beside the others or
remove it: of these it is every eighth, and each between two after which readers find another thing.

Run as ``python -m tests.faults.dying SCENARIO URL FOLDER OPTIONS``. It imports everything once and
forks for each such step a process that begins anew and is killed there, and then another that
looks at what is left and goes on; what that one finds goes to stdout, a JSON object a step. The
process that forks starts no thread and opens no store, as neither would survive it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr
from zarr.core.sync import sync

from dask_gmm import GaussianMixture
from dask_gmm.data import atomic_replace
from dask_gmm.data.output_array import read_attributes
from dask_gmm.data.provenance import is_incomplete, recipe_in
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import check_options
from dask_gmm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKS = 4
ROWS = np.random.default_rng(0).standard_normal((BLOCKS * 50, 2))
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"})
FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts what a process does to the files below some folder, and ends it at one step."""

    def __init__(self, last: int, folder: str, how: signal.Signals = signal.SIGKILL) -> None:
        self.left, self._folder, self._how = last, folder, how

    def watch_files(self) -> None:
        """Take each change to a file of the folder for a step."""
        sys.addaudithook(self._audit)
        exchange = atomic_replace._exchange

        def step_on_both_sides(one: str, other: str) -> bool:
            self.step()
            done = exchange(one, other)
            self.step()
            return done

        atomic_replace._exchange = step_on_both_sides

    def watch_objects(self) -> None:
        """Take each object that is written or deleted for a step."""
        for name in ("set", "set_if_not_exists", "delete"):
            setattr(zarr.storage.ObjectStore, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original = getattr(zarr.storage.ObjectStore, name)

        async def stepping(store: Any, *args: Any) -> Any:
            self.step()
            return await original(store, *args)

        return stepping

    def step(self) -> None:
        """One more."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self._how)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not (isinstance(flags, int) and flags & FOR_WRITING):
                return
        elif event in CHANGES:
            path = args[0]
            if event == "os.remove" and args[1] >= 0:  # named by an open directory
                path = self._folder
        else:
            return
        if isinstance(path, str | os.PathLike) and self._folder in os.fspath(path):
            self.step()


def objects(url: str, options: dict[str, str]) -> dict[str, str]:
    """Digests of what is at a path or URL; of models without what differs from save to save."""
    store = writable_store(url, options)

    async def keys() -> list[str]:
        return [key async for key in store.list()]

    prototype = zarr.core.buffer.default_buffer_prototype()
    found = {}
    for key in sync(keys()):
        value = sync(store.get(key, prototype))
        assert value is not None
        found[key] = hashlib.sha256(value.to_bytes()).hexdigest()
    return found


def fitted(seed: int) -> GaussianMixture:
    """A mixture of another seed is another."""
    model = GaussianMixture(2, random_state=seed, max_iter=1, kernel="reference")
    with warnings.catch_warnings(action="ignore"):  # of not having converged
        model.fit(ROWS[seed :: 2 + seed])
    return model


class Scenario:
    """One kind of writing: what was there before, what is done, and what is looked at after."""

    def __init__(self, url: str, folder: Path, options: dict[str, str]) -> None:
        self.url, self.folder, self.options = url, folder, options
        self.on_disk = url.startswith("/")

    def mixture(self, seed: int) -> GaussianMixture:
        """Return one that `prepare` has left."""
        return GaussianMixture.load(self.folder / f"m{seed}.zarr")

    def write(self, url: str, seed: int, **how: Any) -> None:
        """Write to a place."""
        raise NotImplementedError

    def reading(self, url: str) -> str:
        """What a reader finds: the digest of it, or what is wrong."""
        raise NotImplementedError


class Outputs(Scenario):
    """`predict_to`."""

    def write(self, url: str, seed: int, **how: Any) -> None:
        source = str(self.folder / "x.zarr")
        with dask.config.set(scheduler="synchronous"):
            self.mixture(seed).predict_to(source, url, storage_options=self.options or None, **how)

    def reading(self, url: str) -> str:
        try:
            array = zarr.open_array(writable_store(url, self.options), mode="r")
        except FileNotFoundError:
            return "nothing"
        own: Any = array.attrs["dask_gmm"]
        if not own["complete"]:
            return "incomplete"
        return hashlib.sha256(np.asarray(array[...]).tobytes()).hexdigest()


class Models(Scenario):
    """`save`."""

    def write(self, url: str, seed: int, **how: Any) -> None:
        how.pop("resume", None)
        self.mixture(seed).save(url, storage_options=self.options or None, **how)

    def reading(self, url: str) -> str:
        try:
            model = GaussianMixture.load(url, storage_options=self.options or None)
        except StoreError as error:
            return "incomplete" if "broke off" in str(error) else "nothing"
        return hashlib.sha256(model.means_.tobytes()).hexdigest()


def look(scenario: Scenario, url: str, expected: dict[str, str]) -> dict[str, Any]:
    """What is left of a process that was killed, and what comes of going on."""
    beside = list(Path(url).parent.glob(".*.partial")) if scenario.on_disk else []
    found: dict[str, Any] = {"reading": scenario.reading(url)}
    place = str(beside[0]) if beside else url
    attributes = read_attributes(place, check_options(scenario.options)) or {}
    # Beside its place it may have been called complete, and not put there.
    begun = recipe_in(attributes) is not None and (beside or is_incomplete(attributes))
    there = set(objects(place, scenario.options)) if begun else set()
    put = set()
    for name in ("LocalStore", "ObjectStore"):
        original = getattr(zarr.storage, name).set

        async def counted(store: Any, key: str, value: Any, original: Any = original) -> None:
            put.add(key)
            await original(store, key, value)

        getattr(zarr.storage, name).set = counted
    chunks = {key for key in there if key.startswith("c/") and not key.endswith(".partial")}
    done = found["reading"] == expected["new"]
    scenario.write(
        url,
        1,
        overwrite=not done or isinstance(scenario, Models),
        resume="must" if done else "auto",
    )
    found["finished_before"] = len(chunks)
    found["written_after"] = len({key for key in put if key.startswith("c/")})
    found["again"] = sorted(chunks & put)
    found["after"] = scenario.reading(url)
    found["objects"] = objects(url, scenario.options)
    found["rests"] = sorted(p.name for p in Path(url).parent.iterdir()) if scenario.on_disk else []
    return found


def forked(act: Callable[[], Any]) -> tuple[int, Any]:
    """Run something in a process of its own; return its wait status and its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            result = json.dumps(act())
            with os.fdopen(writing, "w") as pipe:
                pipe.write(result)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return os.waitpid(child, 0)[1], json.loads(text) if text else None


def prepare(scenario: Scenario, expected_at: str, before: str) -> dict[str, Any]:
    """Write the rows and an undisturbed output; return what readers find of old and new."""
    zarr.create_array(scenario.folder / "x.zarr", data=ROWS, chunks=(50, 2))
    for seed in (0, 1):
        fitted(seed).save(scenario.folder / f"m{seed}.zarr")
    scenario.write(expected_at, 0)
    old = scenario.reading(expected_at)
    scenario.write(expected_at, 1, overwrite=True)
    new = scenario.reading(expected_at)
    assert old != new
    return {
        "old": old if before == "old" else "nothing",
        "new": new,
        "objects": objects(expected_at, scenario.options),
    }


def chosen(total: int) -> list[int]:
    """At which of the steps a process is to die first."""
    return [s for s in range(1, total + 1) if total < 40 or s <= 8 or s > total - 8 or s % 8 == 0]


def between(found: dict[int, Any]) -> list[int]:
    """The steps between two of those, one after the other, which have left different things."""
    looked = sorted(found)
    return [
        step
        for before, after in pairwise(looked)
        if found[before]["reading"] != found[after]["reading"]
        for step in range(before + 1, after)
    ]


def main(name: str, url: str, folder: str, options: str) -> None:
    """Have processes die at the steps that one takes that comes through."""
    kind, before, *how = name.split("-")
    if how:  # as on a file system that cannot exchange two names
        atomic_replace._exchange = lambda one, other: False
    scenario = (Outputs if kind == "predict_to" else Models)(url, Path(folder), json.loads(options))
    (Path(folder) / "expected").mkdir()
    at = f"{folder}/expected/out.zarr" if scenario.on_disk else f"{url}/expected/out.zarr"
    status, expected = forked(lambda: prepare(scenario, at, before))
    assert status == 0
    print(json.dumps(expected), flush=True)

    def place_of(step: int) -> tuple[Path, str]:
        place = Path(folder) / f"step{step}"
        return place, f"{place}/out.zarr" if scenario.on_disk else f"{url}/step{step}/out.zarr"

    def die_at(step: int) -> int:
        """Write, and die at a step; none is 0. Return how many there were."""
        place, target = place_of(step)
        place.mkdir()
        if before == "old":
            scenario.write(target, 0)
        steps = Steps(step, str(place))
        (steps.watch_files if scenario.on_disk else steps.watch_objects)()
        scenario.write(target, 1, overwrite=before == "old")
        return step - steps.left

    def left_by(step: int) -> Any:
        """What is found after a death at a step."""
        status, _ = forked(partial(die_at, step))
        assert os.WIFSIGNALED(status), f"step {step} of {total} was not one, or failed by itself"
        assert os.WTERMSIG(status) == signal.SIGKILL
        status, found = forked(partial(look, scenario, place_of(step)[1], expected))
        assert status == 0, f"nothing could go on after step {step} of {total}"
        return found

    status, total = forked(partial(die_at, 0))
    assert status == 0
    found = {step: left_by(step) for step in chosen(total)}
    found |= {step: left_by(step) for step in between(found)}
    for step in sorted(found):
        print(json.dumps(found[step]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
