from pathlib import Path
import pytest
from tests.examples import pages
from tests.object_store import object_store, free_port
EX=pages.EXAMPLES
PLAIN=[p for p in pages.PAGES if p.name not in ("README.md","cloud.md","cluster.md")]
@pytest.mark.parametrize("page", PLAIN, ids=lambda p: p.name)
def test_runs(page, tmp_path, monkeypatch):
    pages.Session(page, tmp_path, monkeypatch).read()
def test_cloud(tmp_path, monkeypatch, object_store):
    object_store.client().create_bucket(Bucket="bucket")
    pages.Session(EX/"cloud.md", tmp_path, monkeypatch, {"http://localhost:9000": object_store.endpoint}).read()
@pytest.mark.slow
def test_cluster(tmp_path, monkeypatch):
    port = free_port()
    pages.Session(EX/"cluster.md", tmp_path, monkeypatch, {"tcp://127.0.0.1:8786": f"tcp://127.0.0.1:{port}", "dask scheduler": f"dask scheduler --host 127.0.0.1 --port {port} --no-dashboard"}).read()
