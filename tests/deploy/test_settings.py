"""deploy/dask.yaml: every key is one that Dask reads, and has its reason beside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dask
import pytest
from dask.utils import parse_timedelta

from . import manifests

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = manifests.DEPLOY / "dask.yaml"


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a nested mapping with its dotted name."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    (document,) = manifests.load_all(PATH)
    return dict(leaves(document))


def unknown_keys(settings: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    known = dict(leaves(defaults))
    return [key for key in settings if key not in known]


def test_dask_knows_every_key(settings: dict[str, Any]) -> None:
    assert settings
    assert unknown_keys(settings, manifests.default_settings()) == []


def test_no_key_is_deprecated(settings: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error")
        assert [key for key in settings if dask.config.check_deprecations(key) != key] == []


def test_an_unknown_key_is_found() -> None:
    wrong = {"distributed.worker.memory.pauze": 0.8}
    assert unknown_keys(wrong, manifests.default_settings()) == list(wrong)


def test_every_key_has_a_reason() -> None:
    """A comment stands above the key, or above the first of a run of keys that belong together."""
    lines = PATH.read_text(encoding="utf-8").splitlines()
    explained = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        is_setting = re.fullmatch(r"[\w.-]+: \S.*", text) is not None
        if text.startswith("#"):
            explained = True
        elif not is_setting:
            explained = False  # a blank line or the head of a mapping ends the run
        assert explained or not is_setting, f"{PATH.name}:{number}: {text} has no reason"


def test_the_values_are_of_their_kind(settings: dict[str, Any]) -> None:
    memory = [
        settings[f"distributed.worker.memory.{name}"]
        for name in ("target", "spill", "pause", "terminate")
    ]
    assert memory == sorted(memory)
    assert all(0 < fraction < 1 for fraction in memory)
    for name in ("comm.timeouts.connect", "comm.timeouts.tcp", "scheduler.no-workers-timeout"):
        assert parse_timedelta(settings[f"distributed.{name}"]) >= 30
    for library in ("OMP", "OPENBLAS", "MKL"):
        key = f"distributed.nanny.pre-spawn-environ.{library}_NUM_THREADS"
        assert settings[key] == 1
