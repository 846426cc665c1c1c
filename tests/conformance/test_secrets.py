"""Credentials stay where they are: all that a fit makes, writes and says is searched for them."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import subprocess
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import numpy as np
import obstore
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.data.commits import Commits
from dask_gmm.data.source import open_source
from dask_gmm.fitting.events import PassFinished
from tests.cli.conftest import PROGRAM
from tests.servers import azure, google
from tests.servers.kinds import Bucket, kind_of_store, workers_with, zarr_files
from tests.servers.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

ROWS = np.random.default_rng(0).normal(size=(600, 3)) + np.arange(3)

SECRETS: dict[str, dict[str, str]] = {
    "s3": {
        "AWS_SECRET_ACCESS_KEY": "hunter2/of+the=key",
        "AWS_SESSION_TOKEN": "hunter2/of+the=session",
    },
    "azure": {"AZURE_STORAGE_ACCOUNT_KEY": azure.KEY},
    "azure, signed": {"AZURE_STORAGE_SAS_KEY": ""},  # made when the server is there
    "google": {"GOOGLE_BEARER_TOKEN": google.TOKEN},
}


class Search:
    """Looks for secrets, however they are spelled."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._spelled: set[bytes] = set()
        for secret in secrets.values():
            # Of a signed URL's query its signature is what nobody else may have.
            told = secret.partition("sig=")[2] or secret
            for text in (told, quote(told), quote(told, safe=""), quote_plus(told)):
                self._spelled |= {text.encode(), base64.b64encode(text.encode())}
        self.looked_at = 0

    def __call__(self, where: str, content: Any) -> None:
        """Look through bytes or a text."""
        found = content if isinstance(content, bytes) else str(content).encode()
        self.looked_at += len(found)
        for secret in self._spelled:
            assert secret not in found, f"a secret is in {where}"


@pytest.fixture(params=SECRETS)
def box(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket, and what leads to it that is secret."""
    with kind_of_store(request.param.partition(",")[0], tmp_path / "server") as kind:
        secrets = dict(SECRETS[request.param])
        if "signed" in request.param:
            secrets = {"AZURE_STORAGE_SAS_KEY": azure.AzureServer.shared_access("gmm-test")}
            monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        yield kind, secrets


def stop(event: Any) -> None:
    if isinstance(event, PassFinished) and event.number == 3:
        raise InterruptedError


def test_nothing_secret_in_what_a_fit_leaves(
    box: tuple[Bucket, dict[str, str]],
    tmp_path: Path,
    two_processes: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    kind, secrets = box
    search, options = Search(secrets), dict(kind.options)
    X = kind.put(zarr_files(tmp_path, ROWS, chunks=(50, 3)), "x.zarr")
    readable = "AZURE_STORAGE_SAS_KEY" in secrets  # and no more than that
    place = str(tmp_path / "c") if readable else kind.place("checkpoint")
    outputs = [str(tmp_path / n) if readable else kind.place(n) for n in ("l.zarr", "m.zarr")]
    out: dict[str, Any] = {} if readable else {"storage_options": options}
    gm = GaussianMixture(
        2, random_state=0, acceleration=None, tol=0.0, max_iter=5, storage_options=options
    )
    environment = secrets if readable else {**kind.environment, **secrets}
    gm.set_params(callbacks=[stop])
    with workers_with(two_processes, environment):
        if readable:  # a checkpoint lies where it can be written
            gm.set_params(callbacks=None).fit(X)
        else:
            with pytest.raises(InterruptedError):
                gm.fit(X, checkpoint=place)
            gm.set_params(callbacks=None).fit(X, checkpoint=place, resume="must")
        gm.predict_to(X, outputs[0], **out)
        lazy: Any = gm.predict(X)
        graph = dict(lazy.__dask_graph__())
        search("a graph's keys", list(graph))
        search("a graph", pickle.dumps(graph))
        lazy.compute()
    gm.save(outputs[1], **out)
    source = open_source(X, storage_options=options)
    search("a source", pickle.dumps(source))
    search("descriptions", f"{source!r} {gm!r} {gm.history_!r}")
    search("an estimator", pickle.dumps(gm))
    for name, lines in two_processes.get_worker_logs().items():
        search(f"the log of {name}", lines)
    search("the scheduler's log", two_processes.get_scheduler_logs())
    search("the log", caplog.text)
    for path in tmp_path.rglob("*"):
        if path.is_file() and "server" not in path.relative_to(tmp_path).parts:
            search(str(path), path.read_bytes())
    for page in obstore.list(kind.raw):
        for found in page:
            search(found["path"], bytes(obstore.get(kind.raw, found["path"]).bytes()))
    assert search.looked_at > 10_000


def test_nothing_secret_in_what_errors_say(
    box: tuple[Bucket, dict[str, str]], tmp_path: Path
) -> None:
    """Nor in the errors of libraries that they come from, which a traceback prints too."""
    kind, secrets = box
    search, options = Search(secrets), dict(kind.options)
    X = kind.put(zarr_files(tmp_path, ROWS, chunks=(50, 3)), "x.zarr")
    nowhere = f"http://127.0.0.1:{free_port()}"
    dead = {**options, "endpoint": nowhere, "timeout": "2s", "connect_timeout": "1s"}
    mistakes: dict[str, Any] = {
        "nothing there": lambda: open_source(f"{X}-not", storage_options=options),
        "no bucket": lambda: Commits(f"{X[:5]}no-such-bucket/c", options).newest(),
        "nobody listens": lambda: open_source(X, storage_options=dead),
        "no such option": lambda: open_source(X, storage_options={**options, "endpont": "x"}),
        "not written": lambda: (
            GaussianMixture(1).fit(ROWS).save(f"{X[:5]}no-such-bucket/m", storage_options=options)
        ),
        "a chunk cut off": lambda: read_all(kind.change(X, "c/3/0", b"x"), options),
        "a chunk lost": lambda: read_all(kind.change(X, "c/3/0", None), options),
    }
    for name, mistake in mistakes.items():
        with pytest.raises(Exception) as caught:
            mistake()
        search(name, "".join(traceback.format_exception(caught.value)))
        search(name, pickle.dumps(str(caught.value)))


def read_all(url: str, options: dict[str, Any]) -> None:
    source = open_source(url, storage_options=options)
    for i in range(source.n_blocks):
        source.read(source.block(i))


@pytest.mark.parametrize("box", ["s3", "azure, signed"], indirect=True)
def test_nothing_secret_in_what_the_command_line_says(
    box: tuple[Bucket, dict[str, str]], tmp_path: Path
) -> None:
    kind, secrets = box
    search = Search(secrets)
    X = kind.put(zarr_files(tmp_path, ROWS, chunks=(50, 3)), "x.zarr")
    where = [w for pair in kind.options.items() for w in ("--storage-option", "=".join(pair))]
    model = str(tmp_path / "m.zarr")
    for words in (
        ("plan", X, "-k", "2", "--json"),
        ("fit", X, "-k", "2", "-o", model, "--json", "--workers", "2"),
        ("fit", f"{X}-not", "-k", "2"),
    ):
        done = subprocess.run(
            [*PROGRAM, *words, *where], capture_output=True, text=True, timeout=200
        )
        assert (done.returncode == 0) == ("-not" not in words[1]), done.stderr
        search(" ".join(words), done.stdout + done.stderr)
        if "--json" in words:
            json.loads(done.stdout)
    for path in (tmp_path / "m.zarr").rglob("*"):
        if path.is_file():
            search(str(path), path.read_bytes())


def test_the_search_finds_what_it_looks_for() -> None:
    search = Search({"A": "hunter2/of+the=key"})
    search("nothing", "hunter2")
    for spelled in ("hunter2/of+the=key", "hunter2%2Fof%2Bthe%3Dkey"):
        with pytest.raises(AssertionError):
            search("a text", f"x{spelled}y")
    with pytest.raises(AssertionError):
        search("bytes", base64.b64encode(b"hunter2/of+the=key"))
