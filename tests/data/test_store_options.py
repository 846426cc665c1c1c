"""Storage options: what they mean in each cloud, whom they trust, and what is said of refusals."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.commits import Commits
from dask_gmm.data.source import open_source
from dask_gmm.data.store_options import object_settings
from dask_gmm.data.store_refusals import known_refusal
from dask_gmm.data.stores import store_for, store_spec
from dask_gmm.data.urls import same_place
from dask_gmm.errors import CheckpointError, InputError, StoreError, StoreNotFoundError
from tests.servers import azure, google
from tests.servers.certificates import Authority
from tests.servers.https import serve_https
from tests.servers.kinds import files_below, kind_of_store, zarr_files
from tests.servers.proxy import serve_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = np.random.default_rng(0).normal(size=(100, 2))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def web(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An array behind HTTPS."""
    folder = tmp_path_factory.mktemp("web")
    zarr.create_array(folder / "root/x.zarr", data=ROWS, chunks=(50, 2))
    with serve_https(folder / "root", authority.sign(), folder / "nginx") as url:
        yield f"{url}/x.zarr"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with kind_of_store("s3", tmp_path_factory.mktemp("s3")) as kind:
        yield kind


def read(url: str, **options: Any) -> bytes:
    source = open_source(url, storage_options=options)
    found = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    return np.concatenate(found).tobytes()


# -- what they mean --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "client", "config"),
    [
        ("s3://b/x", {"requester_pays": True}, {}, {"request_payer": True}),
        ("s3://b/x", {"requester_pays": "true"}, {}, {"request_payer": True}),
        ("s3://b/x", {"anon": True}, {}, {"skip_signature": True}),
        ("s3://b/x", {"requester_pays": False}, {}, {}),
        ("gs://b/x", {"user_project": "p"}, {"default_headers": {"x-goog-user-project": "p"}}, {}),
        ("gs://b/x", {"endpoint": "http://h:1"}, {"allow_http": True}, {"base_url": "http://h:1"}),
        ("az://b/x", {"endpoint": "http://h:1/a"}, {"allow_http": True}, {"endpoint": "http://h:1/a"}),
        ("https://h/x", {"timeout": "9s"}, {"timeout": "9s"}, {}),
        ("https://h/x", {"skip_signature": True}, {}, {}),
        ("s3://b/x", {"aws_endpoint_url": "http://h:1"}, {"allow_http": True},
         {"aws_endpoint_url": "http://h:1"}),
        ("s3://b/x", {"AWS_ENDPOINT": "http://h:1"}, {"allow_http": True},
         {"AWS_ENDPOINT": "http://h:1"}),
    ],
)  # fmt: skip
def test_one_name_in_every_cloud(
    url: str, options: dict[str, Any], client: dict[str, Any], config: dict[str, Any]
) -> None:
    found = object_settings(url, options)
    assert found == (client, config)
    store_spec(url, options)


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("s3://b/x", "AWS_ENDPOINT"),
        ("s3://b/x", "AWS_ENDPOINT_URL"),
        ("az://b/x", "AZURE_STORAGE_ENDPOINT"),
        ("gs://b/x", "GOOGLE_BASE_URL"),
    ],
)
def test_an_endpoint_of_the_environment_may_be_plain_http(
    url: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert object_settings(url, {}).client == {}
    monkeypatch.setenv(variable, "http://h:1")
    assert object_settings(url, {}).client == {"allow_http": True}


def test_gcs_is_another_name_for_gs() -> None:
    spec = store_spec("gcs://b/x", {"anon": True})
    assert spec == store_spec("gs://b/x", {"anon": True})
    assert "GCSStore" in str(store_for(spec)._store)
    assert same_place("gcs://b/x", "gs://b/x")


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("gs://b/x", {"requester_pays": True}, "user_project=PROJECT"),
        ("s3://b/x", {"user_project": "p"}, "requester_pays=true"),
        ("az://b/x", {"requester_pays": True}, "nobody pays"),
        ("ftp://h/x", {"ca_file": "/x"}, "'ca_file' has no meaning for ftp://h/x"),
        ("/tmp/x", {"ca_file": "/x"}, "'ca_file' has no meaning for /tmp/x"),
        ("ftp://h/x", {"max_retries": 3}, "'max_retries' has no meaning for ftp://h/x"),
        ("ftp://h/x", {"proxy_url": "http://h:1"}, "'proxy_url' has no meaning for ftp://h/x"),
        ("s3://b/x", {"retry_timeout": float("inf")}, "retry_timeout one of seconds"),
        ("s3://b/x", {"max_retries": 10**30}, "s3://b/x cannot be used"),
        ("s3://b/x", {"max_retries": 2.7}, "max_retries is a whole number of times"),
        ("https://h/x", {"ca_file": "/no/such"}, r"'ca_file', /no/such, cannot be read on this"),
        ("https://h/x", {"proxy_ca_file": "/x"}, "proxy_url: give that too"),
    ],
)
def test_what_means_nothing_is_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        store_for(store_spec(url, options))
    assert "\n" not in str(caught.value)


def test_a_file_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN PRIVATE KEY-----")
    with pytest.raises(InputError, match="holds no certificate on this machine"):
        store_for(store_spec("https://h/x", {"ca_file": str(tmp_path / "ca.pem")}))


# -- whom they trust -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_private_authority(web: str, authority: Authority) -> None:
    assert read(web, ca_file=str(authority.file)) == ROWS.tobytes()
    with pytest.raises(StoreError, match=r"is signed by nobody.*ca_file=PATH") as caught:
        read(web)
    assert web in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "days", "why"),
    [("127.0.0.1", -1.0, "has expired. Whoever"), ("example.org", 9.0, "is for another name")],
)
def test_bad_certificates(
    host: str, days: float, why: str, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    certified = authority.sign(host, days=days)
    with (
        serve_https(tmp_path / "root", certified, tmp_path / "nginx") as url,
        pytest.raises(StoreError, match=f"its certificate {why}") as caught,
    ):
        read(f"{url}/x.zarr", ca_file=str(authority.file))
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


# -- proxies ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_proxies(web: str, s3: Any, authority: Authority, tmp_path: Path) -> None:
    """Plain requests and tunnels, by HTTP and HTTPS, but for what is excluded."""
    ca = str(authority.file)
    X = s3.put(zarr_files(tmp_path, ROWS, chunks=(50, 2)), "x.zarr")
    with serve_proxy() as proxy:
        assert read(X, proxy_url=proxy.url, **s3.options) == ROWS.tobytes()
        assert set(proxy.asked) == {s3.options["endpoint"].removeprefix("http://")}
        proxy.asked.clear()
        assert read(web, proxy_url=proxy.url, ca_file=ca) == ROWS.tobytes()
        assert set(proxy.asked) == {web.removeprefix("https://").partition("/")[0]}
        proxy.asked.clear()
        passed = {"proxy_url": proxy.url, "proxy_excludes": "127.0.0.1"}
        assert read(web, ca_file=ca, **passed) == ROWS.tobytes()
        assert not proxy.asked
    with serve_proxy(authority.sign()) as proxy:
        assert read(web, proxy_url=proxy.url, ca_file=ca, proxy_ca_file=ca) == ROWS.tobytes()
        assert proxy.asked


@pytest.mark.slow
def test_a_proxy_that_asks_who_is_there(web: str, authority: Authority) -> None:
    with serve_proxy(closed=True) as proxy, pytest.raises(StoreError) as caught:
        read(web, proxy_url=proxy.url, ca_file=str(authority.file))
    assert web in str(caught.value)


# -- who may, and who pays -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[google.GoogleServer]:
    """Buckets of Google's: private, public, one whose requester pays. Nobody is anybody."""
    with google.serve_google(tmp_path_factory.mktemp("google")) as server:
        for name in ("private", "public", "charged"):
            server.make_bucket(name)
        server.public |= {"public", "charged"}
        yield server


def fill(server: google.GoogleServer, bucket: str, folder: Path) -> str:
    import obstore.store

    raw = obstore.store.GCSStore(
        bucket,
        config={"base_url": server.endpoint, "bearer_token": google.TOKEN},
        client_options={
            "allow_http": True,
            "default_headers": {"x-goog-user-project": "tests"},
        },
    )
    for key, content in zarr_files(folder, ROWS, chunks=(50, 2)).items():
        obstore.put(raw, f"x.zarr/{key}", content, use_multipart=False)
    return f"gs://{bucket}/x.zarr"


def test_public_data_of_google(gcs: google.GoogleServer, tmp_path: Path) -> None:
    url = fill(gcs, "public", tmp_path)
    assert read(url, endpoint=gcs.endpoint, anon=True) == ROWS.tobytes()
    assert read(f"gcs{url[2:]}", endpoint=gcs.endpoint, skip_signature="true") == ROWS.tobytes()


def test_google_refuses(
    gcs: google.GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fill(gcs, "private", tmp_path)
    with pytest.raises(StoreError, match=rf"Access to {url}.* was denied"):
        read(url, endpoint=gcs.endpoint, anon=True)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of-yesterday")
    with pytest.raises(StoreError, match=rf"Access to {url}.* was denied") as caught:
        read(url, endpoint=gcs.endpoint)
    assert "of-yesterday" not in str(caught.value)


def test_who_pays_google(gcs: google.GoogleServer, tmp_path: Path) -> None:
    url = fill(gcs, "charged", tmp_path)
    gcs.charged.add("charged")
    with pytest.raises(StoreError, match=r"pays for it. Say which .* user_project=PROJECT") as told:
        read(url, endpoint=gcs.endpoint, anon=True)
    assert url in str(told.value)
    where = {"endpoint": gcs.endpoint, "anon": True, "user_project": "mine"}
    assert read(url, **where) == ROWS.tobytes()


@contextmanager
def bucket_that_charges(files: dict[str, bytes]) -> Iterator[str]:
    """As S3 answers where the requester pays."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            content = files.get(self.path.removeprefix("/b/x.zarr/"))
            if self.headers.get("x-amz-request-payer") != "requester":
                status, content = 403, b"<Error><Code>AccessDenied</Code></Error>"
            else:
                status = 404 if content is None else 200
            content = content or b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_who_pays_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with bucket_that_charges(zarr_files(tmp_path, ROWS, chunks=(50, 2))) as endpoint:
        where = {"endpoint": endpoint, "region": "us-east-1"}
        with pytest.raises(StoreError, match=r"denied.*requester_pays=true"):
            read("s3://b/x.zarr", **where)
        assert read("s3://b/x.zarr", requester_pays=True, **where) == ROWS.tobytes()


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azure.AzureServer]:
    """A private container and a public one."""
    with azure.serve_azure(tmp_path_factory.mktemp("azure")) as server:
        server.make_container("private")
        server.make_container("public", public=True)
        yield server


@pytest.mark.slow
def test_azure(blobs: azure.AzureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By key, by a signature that expires, and as anybody."""
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(50, 2))
    where = {"endpoint": blobs.endpoint, "account_name": azure.ACCOUNT}
    with monkeypatch.context() as keyed:
        keyed.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure.KEY)
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        from dask_gmm.data.stores import writable_store

        for box in ("private", "public"):
            store = writable_store(f"az://{box}/x.zarr", where)
            for key, content in files_below(tmp_path / "x.zarr").items():
                sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))
    assert read("az://public/x.zarr", anon=True, **where) == ROWS.tobytes()
    with pytest.raises(StoreError, match="denied"):
        read("az://private/x.zarr", anon=True, **where)
    signature = azure.AzureServer.shared_access("private")
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", signature)
    assert read("az://private/x.zarr", **where) == ROWS.tobytes()
    monkeypatch.setenv(
        "AZURE_STORAGE_SAS_KEY", azure.AzureServer.shared_access("private", hours=-1)
    )
    # Another store, as one that is open goes on with what it was opened with.
    with pytest.raises(StoreError, match=r"denied|have expired") as caught:
        read("az://private/x.zarr", user_agent="x", **where)
    assert "sig=" not in str(caught.value)


@pytest.mark.slow
def test_no_such_bucket(s3: Any, gcs: google.GoogleServer) -> None:
    url, options = "s3://no-such/x", s3.options
    with pytest.raises(StoreNotFoundError, match=f"no Zarr array or group at {url}"):
        read(url, **options)
    with pytest.raises(CheckpointError, match=rf"{url}.*no such bucket. Check its name"):
        Commits(url, options).newest()
    gm = GaussianMixture(1, random_state=0).fit(ROWS)
    with pytest.raises(StoreError, match=rf"{url}.*no such bucket. Check its name"):
        gm.save(url, storage_options=options)
    with pytest.raises(StoreError, match="denied"):  # Google tells nobody what there is
        read("gs://no-such/x", endpoint=gcs.endpoint, anon=True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("400 Bad Request: <Error><Code>ExpiredToken</Code>", "have expired"),
        ("403: <Error><Code>RequestTimeTooSkewed</Code>", "clock of this machine"),
        ("404: <Error><Code>ContainerNotFound</Code>", "no such bucket"),
        ("proxy: 407 Proxy Authentication Required", "asks who this is"),
    ],
)
def test_what_answers_mean(said: str, why: str) -> None:
    found = known_refusal(RuntimeError(said))
    assert found is not None
    assert why in found.why
    assert known_refusal(RuntimeError("something else")) is None
