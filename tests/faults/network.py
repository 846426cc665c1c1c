"""What networks and overloaded stores do to a fit, its checkpoint and its model.

Each case puts a fault between this process and an S3 server, does some work, and holds what came of
it against the same work without the fault: the same bits, or an error of a kind that is named here,
with the URL and the key. `tests/faults/test_network.py` judges, `tests/benchmarks/bench_faults.py`
prints the table.
"""

from __future__ import annotations

import io
import os
import threading
import time
import uuid
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
import zarr.codecs
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture
from dask_gmm.data import zarr_source
from dask_gmm.data.commits import Commits
from dask_gmm.data.manifest import open_manifest, write_manifest
from dask_gmm.data.object_store import ask
from dask_gmm.data.stored_objects import StoredArrayObjects
from dask_gmm.data.stores import bare_object_store, store_spec, writable_store
from dask_gmm.data.zarr_open import find_by_url
from dask_gmm.errors import (
    CheckpointError,
    CorruptChunkError,
    DaskGMMError,
    MissingChunkError,
    StoreError,
)
from dask_gmm.fitting.events import PassFinished
from tests.fault_proxy import Body, Hang, Reset, Rule, fault_proxy, s3_error
from tests.object_store import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fault_proxy import FaultProxy
    from tests.object_store import ObjectStoreServer

    Begin = Callable[[], None]

__all__ = ["LASTING", "PASSING", "Case", "Outcome", "Stage", "stage_at"]

BLOCKS, BLOCK, FEATURES = 16, 100, 3
SLOW_DOWN = s3_error(503, "Slow Down", "SlowDown", "Please reduce your request rate.")
TOO_MANY = s3_error(429, "Too Many Requests", "TooManyRequests", "Please wait.", Retry_After="1")
INTERNAL = s3_error(500, "Internal Server Error", "InternalError", "We encountered an error.")
NO_SUCH_KEY = s3_error(404, "Not Found", "NoSuchKey", "The specified key does not exist.")
EXPIRED = s3_error(400, "Bad Request", "ExpiredToken", "The provided token has expired.")
DENIED = s3_error(403, "Forbidden", "AccessDenied", "Access Denied")
UNHEARD = Reset("before")
CHECKED: dict[str, Any] = {"compressors": [zarr.codecs.Crc32cCodec()]}
#: How an array lies in the store, and whose blocks are read in which way.
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (BLOCK, FEATURES), **CHECKED},
    "shards": {"chunks": (BLOCK // 2, FEATURES), "shards": (BLOCK, FEATURES), **CHECKED},
    "slabs": {"chunks": (BLOCK, FEATURES), "shards": (2 * BLOCK, FEATURES), **CHECKED},
    "by zarr-python": {
        "chunks": (BLOCK, FEATURES),
        "filters": [zarr.codecs.TransposeCodec(order=(1, 0))],
        **CHECKED,
    },
    "scaled by attributes": {
        "chunks": (BLOCK, FEATURES),
        "zarr_format": 2,
        "compressors": numcodecs.GZip(1),
        "attributes": {"scale_factor": 0.5, "add_offset": 1.0},
    },
    "with holes": {"chunks": (BLOCK, FEATURES), **CHECKED},
}
HOLES = slice(4 * BLOCK, 8 * BLOCK)  # chunks of fill values, which Zarr does not write


@dataclass(frozen=True)
class Case:
    """A fault, and what is to come of it.

    Attributes
    ----------
    what : str
        What is injected, for people.
    rules : tuple of dict
        Arguments of `Rule`, for each run anew.
    work : str
        A key of `WORKS`.
    layout : str
        A key of `LAYOUTS`.
    error : type, optional
        What it ends with; None for the same bits.
    named : str
        What the message names beside the URL.
    options : mapping
        Further storage options.
    renewed_after : float, optional
        Seconds after which there are new credentials when the first have been refused.
    """

    what: str
    rules: tuple[dict[str, Any], ...]
    work: str = "fit"
    layout: str = "chunks"
    error: type[DaskGMMError] | None = None
    named: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    renewed_after: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes
    ----------
    asked, injected : int
        Requests that its rules were about, and those of them that met a fault.
    idle : int
        Rules that had nothing to do.
    seconds : float
        What the work took.
    same : bool
        Whether the bits are those without a fault.
    error : Exception or None
        What it ended with.
    url : str
        The array's.
    """

    asked: int
    injected: int
    idle: int
    seconds: float
    same: bool
    error: Exception | None
    url: str

    def __str__(self) -> str:
        if self.error is None:
            return "the same bits" if self.same else "OTHER BITS"
        return type(self.error).__name__


def fault(what: Any, **settings: Any) -> tuple[dict[str, Any], ...]:
    return ({"fault": what, "seed": 1, **settings},)


_STALLS = {"read_timeout": "0.5s"}
_PUT = {"method": "PUT", "path": r"\.(commit|state)$"}
_MODEL = {"method": "PUT", "path": "/model/"}

#: Faults that pass: the same bits.
PASSING = {
    "slow down 1%": Case("503 SlowDown, 1 %", fault(SLOW_DOWN, rate=0.01, seed=3)),
    "slow down 10%": Case("503 SlowDown, 10 %", fault(SLOW_DOWN, rate=0.1)),
    "slow down 50%": Case(
        "503 SlowDown, 50 %, at opening too", fault(SLOW_DOWN, rate=0.5, path="x")
    ),
    "too many requests": Case("429 with Retry-After, 10 %", fault(TOO_MANY, rate=0.1)),
    "internal error": Case("500 InternalError, 10 %", fault(INTERNAL, rate=0.1)),
    "reset before": Case("reset before the answer, 10 %", fault(UNHEARD, rate=0.1)),
    "reset in the body": Case("reset in mid-body, 10 %", fault(Reset("in the body"), rate=0.1)),
    "cut off": Case("body cut off, 10 %", fault(Body("cut off"), rate=0.1)),
    "cut off unseen": Case(
        "body cut off, its length too, 5 %", fault(Body("cut off unseen"), rate=0.05)
    ),
    "stalled": Case("body stands still, twice", fault(Hang(), times=2), options=_STALLS),
    "false 404": Case("404 for a chunk that is there, once", fault(NO_SUCH_KEY, times=1, rate=0.2)),
    "false 404 among holes": Case(
        "404 for a chunk that is there, once, of an array with holes",
        fault(NO_SUCH_KEY, times=1, path="/c/1[0-5]/"),
        layout="with holes",
    ),
    "false 404 by zarr-python": Case(
        "404 for a chunk that is there, once, read by zarr-python",
        fault(NO_SUCH_KEY, times=1, rate=0.2),
        layout="by zarr-python",
    ),
    "false 404 at opening": Case(
        "404 for each metadata document, once", fault(NO_SUCH_KEY, times_each=1, path=r"zarr\.json")
    ),
    "false 404 of attributes": Case(
        "404 for the attributes of a scaled Zarr v2 array, once",
        fault(NO_SUCH_KEY, times_each=1, path=r"\.zattrs"),
        layout="scaled by attributes",
    ),
    "flipped under crc32c": Case(
        "a flipped bit under crc32c, 5 %", fault(Body("flipped"), rate=0.05)
    ),
    "flipped in a shard": Case(
        "a flipped bit in a shard's chunk, 5 %", fault(Body("flipped"), rate=0.05), layout="shards"
    ),
    "flipped in an index": Case(
        "a flipped bit in a shard's index, 5 %",
        fault(Body("flipped", at=0.98), rate=0.05),
        layout="shards",
    ),
    "flipped in a range": Case(
        "a flipped bit in ranges of shards, 10 %",
        fault(Body("flipped"), rate=0.1),
        layout="slabs",
    ),
    "flipped by zarr-python": Case(
        "a flipped bit under crc32c, 5 %, read by zarr-python",
        fault(Body("flipped"), rate=0.05),
        layout="by zarr-python",
    ),
    "expired": Case(
        "400 ExpiredToken after 40 requests, new credentials 0.3 s later",
        fault(EXPIRED, access_key="old", path="", after=40),
        renewed_after=0.3,
    ),
    "expired by zarr-python": Case(
        "403 after 40 requests, new credentials at once, read by zarr-python",
        fault(DENIED, access_key="old", path="", after=40),
        layout="by zarr-python",
        renewed_after=0.0,
    ),
    "commits, slow down": Case(
        "503 for puts of a checkpoint, 30 %", fault(SLOW_DOWN, rate=0.3, **_PUT), "checkpoint"
    ),
    "commits, reset": Case(
        "reset before puts of a checkpoint, 30 %", fault(UNHEARD, rate=0.3, **_PUT), "checkpoint"
    ),
    "commits, unheard": Case(
        "reset after puts of a checkpoint were done, 30 %",
        fault(UNHEARD, rate=0.3, reaches=True, **_PUT),
        "checkpoint",
    ),
    "commits, done and failed": Case(
        "500 after puts of a checkpoint were done, 30 %",
        fault(INTERNAL, rate=0.3, reaches=True, **_PUT),
        "checkpoint",
    ),
    "resumed": Case(
        "a flipped bit and a 404 for each part of a checkpoint that is gone on with, once each",
        (
            {"fault": NO_SUCH_KEY, "times_each": 1, "path": r"\.(commit|state)$"},
            {"fault": Body("flipped"), "times_each": 1, "path": r"\.(commit|state)$"},
        ),
        "resume",
    ),
    "model, slow down": Case(
        "503 for puts of a model, 30 %", fault(SLOW_DOWN, rate=0.3, **_MODEL), "model"
    ),
    "model, reset": Case(
        "reset after puts of a model were done, 30 %",
        fault(UNHEARD, rate=0.3, reaches=True, **_MODEL),
        "model",
    ),
    "model, read": Case(
        "404 for each part of a model that is read, once, and a flipped bit",
        (
            {"fault": NO_SUCH_KEY, "times_each": 1, "path": "/model/"},
            {"fault": Body("flipped"), "times": 1, "path": "/model/.*/c"},
        ),
        "model",
    ),
    "table": Case(
        "503, 404 (once) and flipped bits for ranges of a Parquet file, 10 % each",
        (
            {"fault": SLOW_DOWN, "rate": 0.1, "path": "parquet", "seed": 1},
            {"fault": NO_SUCH_KEY, "rate": 0.1, "path": "parquet", "times": 1, "seed": 2},
            {"fault": Body("flipped"), "rate": 0.1, "path": "parquet", "seed": 3},
        ),
        "table",
    ),
    "manifest": Case(
        "404 (once) and flipped bits, 10 %, for chunks held against a manifest",
        (
            {"fault": NO_SUCH_KEY, "rate": 0.1, "times": 1, "seed": 2},
            {"fault": Body("flipped"), "rate": 0.1, "seed": 1},
        ),
        "manifest",
    ),
    "labels": Case(
        "503, and resets after they were done, for puts of labels, 10 % each",
        (
            {"fault": SLOW_DOWN, "rate": 0.1, "method": "PUT", "path": "/labels/"},
            {"fault": UNHEARD, "rate": 0.1, "method": "PUT", "path": "/labels/", "reaches": True},
        ),
        "labels",
    ),
}

_SOON = {"max_retries": 3, "retry_timeout": 5}

#: Faults that last: an error of its kind, soon.
LASTING = {
    "slow down": Case(
        "503 SlowDown, always", fault(SLOW_DOWN), error=StoreError, named="SlowDown", options=_SOON
    ),
    "too many requests": Case(
        "429, always", fault(TOO_MANY), error=StoreError, named="429", options=_SOON
    ),
    "internal error": Case(
        "500, always", fault(INTERNAL), error=StoreError, named="InternalError", options=_SOON
    ),
    "reset": Case(
        "reset in mid-body, always", fault(Reset("in the body")), error=StoreError, options=_SOON
    ),
    "cut off": Case(
        "body cut off, always", fault(Body("cut off")), error=StoreError, options=_SOON
    ),
    "cut off unseen": Case(
        "body cut off, its length too, always",
        fault(Body("cut off unseen"), path="/c/7/"),
        error=CorruptChunkError,
        named="c/7/0",
    ),
    "stalled": Case(
        "bodies stand still, always",
        fault(Hang()),
        error=StoreError,
        options={"max_retries": 1, **_STALLS},
    ),
    "gone": Case(
        "404, always", fault(NO_SUCH_KEY, path="/c/7/"), error=MissingChunkError, named="c/7/0"
    ),
    "flipped": Case(
        "a flipped bit under crc32c, always",
        fault(Body("flipped"), path="/c/7/"),
        error=CorruptChunkError,
        named="c/7/0",
    ),
    "denied": Case(
        "403 AccessDenied, always", fault(DENIED), error=StoreError, named="AccessDenied"
    ),
    "expired": Case(
        "400 ExpiredToken after 20 requests, never new credentials",
        fault(EXPIRED, path="/c/", after=20),
        error=StoreError,
        named="ExpiredToken",
    ),
    "commits denied": Case(
        "403 for puts of a checkpoint, always",
        fault(DENIED, **_PUT),
        "checkpoint",
        error=CheckpointError,
        named="AccessDenied",
    ),
}


class Stage:
    """A server, a proxy before it, arrays in its bucket, and what comes of them without faults."""

    def __init__(self, server: ObjectStoreServer, proxy: FaultProxy) -> None:
        self._server = server
        self._proxy = proxy
        self._urls: dict[str, str] = {}
        self._clean: dict[tuple[str, str], tuple[bytes, float]] = {}

    def url(self, layout: str) -> str:
        """Return the URL of an array of a layout, which is written once."""
        if layout not in self._urls:
            place = layout.replace(" ", "-")
            url = f"s3://{self._server.bucket}/{place}/x.zarr"
            rows = _rows()
            if layout == "with holes":
                rows[HOLES] = 0.0
            store = writable_store(url, self._server.options)
            zarr.create_array(store, data=rows, overwrite=True, **LAYOUTS[layout])
            self._urls[layout] = url
        return self._urls[layout]

    def clean(self, case: Case) -> bytes:
        """Return what the work of a case comes to without a fault."""
        return self._cleaned(case)[0]

    def seconds(self, case: Case) -> float:
        """Return how long the work of a case takes without a fault."""
        return self._cleaned(case)[1]

    def _cleaned(self, case: Case) -> tuple[bytes, float]:
        key = case.work, case.layout
        if key not in self._clean:
            begun = time.monotonic()

            def begin() -> None:
                nonlocal begun
                begun = time.monotonic()

            found = self._do(case, self._proxy.endpoint, begin)
            self._clean[key] = found, time.monotonic() - begun
        return self._clean[key]

    def run(self, case: Case) -> Outcome:
        """Do the work of a case, with its fault."""
        clean, url = self.clean(case), self.url(case.layout)
        rules = [Rule(**settings) for settings in case.rules]
        found = b""
        error: DaskGMMError | None = None
        begun = time.monotonic()

        def begin() -> None:
            nonlocal begun
            self._proxy.rules = rules
            begun = time.monotonic()

        with _credentials("old"), _renewed(rules[0], case.renewed_after):
            try:
                found = self._do(case, self._proxy.endpoint, begin)
            except DaskGMMError as ended:
                error = ended
            finally:
                self._proxy.rules = []
        seconds = time.monotonic() - begun
        asked = sum(rule.asked for rule in rules)
        injected = sum(rule.injected for rule in rules)
        idle = sum(not rule.injected for rule in rules)
        return Outcome(asked, injected, idle, seconds, found == clean, error, url)

    def _do(self, case: Case, endpoint: str, begin: Callable[[], None]) -> bytes:
        """Do a case's work through an endpoint; `begin` is called before its faults may happen."""
        options = {"endpoint": endpoint, "region": "us-east-1", "user_agent": uuid.uuid4().hex}
        options |= case.options  # of its own connections: none is older than the case
        place = self._server.url()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return WORKS[case.work](self.url(case.layout), place, options, case, begin)


def _rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    clusters = 4.0 * rng.integers(0, 3, (BLOCKS * BLOCK, 1))
    rows: np.ndarray = clusters + rng.normal(size=(BLOCKS * BLOCK, FEATURES))
    return rows


def _fitted(model: GaussianMixture) -> bytes:
    values = (model.means_, model.covariances_, model.weights_, model.lower_bounds_)
    return b"".join(np.asarray(value).tobytes() for value in values)


def _mixture(options: dict[str, Any], case: Case) -> GaussianMixture:
    return GaussianMixture(
        3,
        acceleration=None,
        tol=0.0,
        max_iter=3,
        random_state=0,
        init_size=200,
        cache=0,
        storage_options=options,
        missing_chunks="fill" if case.layout == "with holes" else "error",
    )


def _fit(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    begin()
    return _fitted(_mixture(options, case).fit(url))


def _checkpoint(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    begin()
    fitted = _fitted(_mixture(options, case).fit(url, checkpoint=place))
    newest = Commits(place, options).newest()
    assert newest is not None
    return fitted + f"{newest.number} {newest.about['passes']}".encode()


class _StoppedError(Exception):
    """The first fit ends here."""


def _resume(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    def stop(event: object) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            raise _StoppedError

    mixture = _mixture(options, case)
    with suppress(_StoppedError):
        mixture.set_params(callbacks=[stop]).fit(url, checkpoint=place)
    begin()
    mixture.set_params(callbacks=None).fit(url, checkpoint=place, resume="must")
    return _fitted(mixture)


def _model(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    mixture = _mixture({}, case).fit(_rows())
    begin()
    mixture.save(f"{place}/model", storage_options=options)
    return _fitted(GaussianMixture.load(f"{place}/model", storage_options=options))


def _labels(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    mixture = _mixture({}, case).fit(_rows()).set_params(storage_options=options)
    begin()
    mixture.predict_to(url, f"{place}/labels", storage_options=options)
    labels: Any = zarr.open_array(writable_store(f"{place}/labels", options), mode="r")
    return bytes(labels[...].tobytes())


def _table(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    content = io.BytesIO()
    columns = {f"x{i}": column for i, column in enumerate(_rows().T)}
    table = pa.table(columns)
    pq.write_table(table, content, row_group_size=BLOCK, write_page_checksum=True)
    store = bare_object_store(store_spec(place, options))
    ask(store, lambda s: obstore.put(s, "x.parquet", content.getvalue()))
    begin()
    return _fitted(_mixture(options, case).fit(f"{place}/x.parquet"))


def _manifest(url: str, place: str, options: dict[str, Any], case: Case, begin: Begin) -> bytes:
    found = find_by_url(store_spec(url, options))
    stored = StoredArrayObjects(found.spec, found.array)
    content = io.BytesIO()
    write_manifest(stored, content, lambda *_: None)
    begin()
    differences = open_manifest(content, "it").differences(stored, lambda *_: None)
    return "".join(f"{found.kind} {found.key}, " for found in differences).encode()


WORKS = {
    "fit": _fit,
    "checkpoint": _checkpoint,
    "resume": _resume,
    "model": _model,
    "labels": _labels,
    "table": _table,
    "manifest": _manifest,
}


@contextmanager
def _credentials(access_key: str) -> Iterator[None]:
    """Have credentials in the environment; the server takes any."""
    new = {**CREDENTIALS, "AWS_ACCESS_KEY_ID": access_key}
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _renewed(rule: Rule, after: float | None) -> Iterator[None]:
    """Put another key into the environment, some seconds after a rule has refused the first."""
    ended = threading.Event()

    def renew() -> None:
        while not rule.injected:
            if ended.wait(0.002):
                return
        if not ended.wait(after):
            os.environ["AWS_ACCESS_KEY_ID"] = "new"

    if after is None:
        yield
        return
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def stage_at(server: ObjectStoreServer) -> Iterator[Stage]:
    """Put a proxy before a server; shards of more than a block are read in slabs."""
    whole = zarr_source.SHARD_BLOCK_BYTES
    zarr_source.SHARD_BLOCK_BYTES = BLOCK * FEATURES * 8
    try:
        with _credentials("good"), fault_proxy(server.endpoint) as proxy:
            yield Stage(server, proxy)
    finally:
        zarr_source.SHARD_BLOCK_BYTES = whole
