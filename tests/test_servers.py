"""A server that is not installed: tests of it are skipped, and in CI they fail."""

from __future__ import annotations

import pytest

from tests.servers.process import WITHOUT, program


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv(WITHOUT, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-server is not installed: make it"):
        program("no-server", "make it")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="in CI it has to be: make it"):
        program("no-server", "make it")
    monkeypatch.setenv(WITHOUT, "another no-server")
    with pytest.raises(pytest.skip.Exception):
        program("no-server", "make it")
    assert program("sh", "have a shell").endswith("sh")
