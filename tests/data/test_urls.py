"""Paths, URLs and options: what is understood, what is refused, what must never leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import fsspec.implementations.local
import numpy as np
import pytest
import zarr

from dask_gmm.data.source import open_source
from dask_gmm.data.stores import probe_store, store_for, store_spec, writable_store
from dask_gmm.data.urls import (
    check_options,
    join_url,
    normalize_url,
    redacted,
    same_place,
    scheme_of,
)
from dask_gmm.errors import InputError, StoreError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a/b.zarr/", "/a/b.zarr"),
        (Path("/a/b"), "/a/b"),
        ("x.zarr", str(Path.cwd() / "x.zarr")),
        ("~/x.zarr", str(Path.home() / "x.zarr")),
        ("file:///a/b%20c", "/a/b c"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket/a", "s3://bucket/a"),
        ("https://example.org/x.zarr", "https://example.org/x.zarr"),
        ("abfs://box@acc.dfs.core.windows.net/a", "abfs://box@acc.dfs.core.windows.net/a"),
        ("memory://name", "memory://name"),
    ],
)
def test_normal_form(url: str | Path, expected: str) -> None:
    assert normalize_url(url) == expected
    assert normalize_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/x",
        "https://me:hunter2@example.org/x",
        "https://example.org/x?X-Amz-Signature=hunter2",
        "https://example.org/x#hunter2",
        "https://hunter2@example.org/x",
        "https://me:hun/ter2@example.org/hunter2",
        "https://me:p?hunter2@example.org/x",
        "s3://hunter2@bucket/x",
        "s3://bucket/x?X-Amz-Signature=hunter2",
        "gs://bucket/x?token=hunter2",
        "az://box/x?sv=1&sig=hunter2",
        "abfss://box@acc.dfs.core.windows.net/x?sv=1&sig=hunter2",
        "abfss://box:hunter2@acc.dfs.core.windows.net/x",
        "sftp://hunter2@host/x",
        "simplecache::s3://me:hunter2@bucket/x",
        "s3://",
        "s3:///x",
        "",
        "   ",
    ],
)
def test_refused_without_repeating_the_secret(url: str) -> None:
    with pytest.raises(InputError) as caught:
        normalize_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "secret",
        "token",
        "password",
        "access_key_id",
        "aws_secret_access_key",
        "AWS_SESSION_TOKEN",
        "account_key",
        "azure_storage_account_key",
        "sas_token",
        "sas_key",
        "service_account_key",
        "google_application_credentials",
        "bearer_token",
        "client_secret",
        "sse_customer_key_base64",
        "authorization",
        "passwd",
        "pwd",
        "connection_string",
        "AZURE_STORAGE_CONNECTION_STRING",
        "conn_str",
        "shared-access-key",
        "sig",
    ],
)
def test_credentials_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"looks like a credential.*environment") as caught:
        check_options({name: "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", "http://me:hunter2@host:9000"),
        ("endpoint", "https://hunter2@host"),
        ("endpoint", "https://host/?sig=hunter2"),
        ("proxy_url", "http://me:hun/ter2@proxy"),
        ("proxy_url", "me:hunter2@proxy:3128"),
        ("user_agent", "mine (https://me:hunter2@host)"),
        ("account", "AccountName=a;AccountKey=hunter2"),
    ],
)
def test_credentials_inside_of_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' has a credential.*environment") as caught:
        check_options({name: value})
    assert "ter2" not in str(caught.value)


def test_other_peoples_messages_are_redacted() -> None:
    text = "GET https://me:hunter2@host/x?sig=hunter2#hunter2 failed (s3://hunter2@b/y?z=hunter2)"
    assert redacted(text) == "GET https://…@host/x?… failed (s3://…@b/y?…)"
    assert redacted("mail me@example.org, is that so?") == "mail me@example.org, is that so?"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3://b/x", "s3a://b//y/../x", True),
        ("s3://b/a%20b", "s3://b/a b", True),
        ("s3://b/x", "s3://b/x/labels", True),
        ("s3://b/x/data", "s3://b/x/labels", False),
        ("s3://b/x", "s3://b/xy", False),
        ("s3://b/x", "gs://b/x", False),
        ("az://box/x", "abfss://box@acc.dfs.core.windows.net/x", True),
        ("s3://b/x", "/b/x", False),
        ("/a/x", "/a/y/../x", True),
        ("/a/x/data", "/a/x/labels", False),
    ],
)
def test_same_place(one: str, other: str, same: bool) -> None:
    assert same_place(one, other) is same
    assert same_place(other, one) is same


def test_plain_options() -> None:
    plain = {"user_agent": "mine (https://example.org; me@example.org)", "region": "eu-1"}
    assert check_options(plain) == tuple(sorted(plain.items()))
    options = {"skip_signature": True, "endpoint": "http://x", "region": "eu", "timeout": "9s"}
    assert check_options(options) == tuple(sorted(options.items()))
    assert check_options({"sse_kms_key_id": "arn"}) == (("sse_kms_key_id", "arn"),)
    with pytest.raises(InputError, match="give nested settings flat"):
        check_options({"client_kwargs": {"endpoint_url": "x"}})


@pytest.mark.parametrize(
    ("url", "options", "shown"),
    [
        ("gs://bucket/a", {"skip_signature": "true"}, "GCSStore"),
        ("az://box/a", {"account_name": "acc", "anon": True}, "AzureStore"),
        ("abfs://box@acc.dfs.core.windows.net/a", {"skip_signature": True}, "AzureStore"),
        ("s3://bucket/a", {"endpoint_url": "http://localhost:9", "anon": True}, "S3Store"),
        ("https://example.org/a", {"timeout": "10s"}, "HTTPStore"),
    ],
)
def test_clouds_are_built_without_network(url: str, options: dict[str, Any], shown: str) -> None:
    spec = store_spec(url, options)
    assert spec.shippable
    assert shown in str(store_for(spec)._store)
    assert shown in str(probe_store(spec)._store)
    assert store_for(spec)._store is store_for(store_spec(url, options))._store
    client = store_for(spec)._store.store.client_options  # type: ignore[attr-defined]
    assert client["timeout"] == options.get("timeout", "5min")
    assert client["read_timeout"] == "60s"


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://bucket/a", {"endpont": "http://x"}, "'endpont' is not valid"),
        ("az://box/a", {}, "Account must be specified"),
        ("foo://box/a", {}, "unknown scheme 'foo'"),
        ("/tmp/x", {"region": "eu"}, "has no meaning"),
    ],
)
def test_unusable(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        store_for(store_spec(url, options))
    assert "\n" not in str(caught.value)


class OtherFileSystem(fsspec.implementations.local.LocalFileSystem):  # type: ignore[misc]
    """A protocol that only fsspec knows."""

    protocol = "gmmtest"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("gmmtest://host")))


def test_fsspec_takes_the_other_protocols(tmp_path: Path) -> None:
    assert type(writable_store(f"local://{tmp_path}")) is zarr.storage.LocalStore
    fsspec.register_implementation("gmmtest", OtherFileSystem, clobber=True)
    url = f"gmmtest://host{tmp_path}/x.zarr"
    options = {"auto_mkdir": True}
    store = writable_store(url, options)
    assert type(store) is zarr.storage.FsspecStore
    zarr.create_array(store, data=np.ones((4, 2)))
    source = open_source(url, storage_options=options)
    assert source.shippable
    assert source.read(source.block(0)).values.sum() == 8
    with pytest.raises(StoreError, match="ftp://localhost:9/x cannot be reached"):
        store_for(store_spec("ftp://localhost:9/x"))


def test_join() -> None:
    assert join_url("s3://b/x/", "", "a/", "/b") == "s3://b/x/a/b"
    assert scheme_of("s3://b") == "s3"
    assert scheme_of("c:/x") == "file"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1]:9000/x.zarr",
        "https://[2001:db8::1]/x.zarr",
        "s3://bucket/a::b.zarr",
        "/a::b.zarr",
    ],
)
def test_two_colons_alone_chain_nothing(url: str) -> None:
    assert normalize_url(url) == url


@pytest.mark.parametrize("url", ["zip://::s3://b/x.zip", "zip://v::x.zip", "simplecache::s3://b/x"])
def test_chained_urls_are_refused_with_what_helps(url: str) -> None:
    with pytest.raises(InputError, match=r"chains protocols.*FsspecStore\.from_url"):
        normalize_url(url)


@pytest.mark.parametrize("name", ["passphrase", "bearer", "jwt", "private_pem", "otp", "signature"])
def test_other_names_of_secrets(name: str) -> None:
    with pytest.raises(InputError, match="looks like a credential"):
        check_options({name: "hunter2"})
