from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from dask_gmm.data.commits import Commits
from tests.data.commits.writers import no_links

if TYPE_CHECKING:
    from pathlib import Path

    from tests.data.commits.writers import Open
    from tests.object_store import ObjectStoreServer


@pytest.fixture(params=["path", "no links", "memory", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open one place, once more at each call."""
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        return lambda **kwargs: Commits(url, **kwargs)
    if request.param == "s3":
        server: ObjectStoreServer = request.getfixturevalue("object_store")
        far = server.url("ckpt")
        return lambda **kwargs: Commits(far, server.options, **kwargs)
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)
    return lambda **kwargs: Commits(tmp_path / "run" / "ckpt", **kwargs)


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and a sync takes as long as ten commits without."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ckpt"
