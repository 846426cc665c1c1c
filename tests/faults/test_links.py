"""A worker on what the network takes for another host; its link goes down, or loses all packets."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults.cluster import MortalCluster
from tests.faults.fits import KINDS, At, bits, make_data, undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


_NUMBERS = itertools.count()  # the kernel takes its time to forget a link


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Link:
    """A host of its own, a network namespace, and the link to it.

    Attributes
    ----------
    name : str
        Of the namespace, and of the link's end there.
    here, there : str
        Addresses of the two ends.
    """

    name: str
    here: str
    there: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def take_down(self) -> None:
        """Pull the cable, which both ends notice."""
        ip("-n", self.name, "link", "set", self.name, "down")

    def blackhole(self) -> None:
        """Lose all packets, which nobody notices: they go to a card that is not there."""
        nobody = "02:00:00:00:00:99"
        for where, peer, device in (
            (("-n", self.name), self.here, self.name),
            ((), self.there, f"{self.name}h"),
        ):
            ip(
                *where,
                "neigh",
                "replace",
                peer,
                "lladdr",
                nobody,
                "dev",
                device,
                "nud",
                "permanent",
            )


@contextmanager
def linked() -> Iterator[Link]:
    """Make one; skip where that is not allowed."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command")
    number = next(_NUMBERS)
    net = f"10.{213 + number}.{os.getpid() % 250}"
    link = Link(f"gmm{os.getpid() % 100_000}n{number}", f"{net}.1", f"{net}.2")
    try:
        ip("netns", "add", link.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        try:
            ip("link", "add", f"{link.name}h", "type", "veth", "peer", "name", link.name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no virtual links here: {error.stderr.decode().strip()}")
        ip("link", "set", link.name, "netns", link.name)
        ip("addr", "add", f"{link.here}/24", "dev", f"{link.name}h")
        ip("link", "set", f"{link.name}h", "up")
        ip("-n", link.name, "addr", "add", f"{link.there}/24", "dev", link.name)
        ip("-n", link.name, "link", "set", link.name, "up")
        ip("-n", link.name, "link", "set", "lo", "up")
        yield link
    finally:
        # First the link: connections that nobody answers keep a namespace for minutes.
        subprocess.run(["ip", "link", "del", f"{link.name}h"], check=False, capture_output=True)
        ip("netns", "del", link.name)


@pytest.mark.parametrize(
    ("how", "kind"), [("take_down", "plain"), *(("blackhole", kind) for kind in KINDS)]
)
def test_a_workers_link_breaks(how: str, kind: str, tmp_path: Path) -> None:
    x = make_data(tmp_path)
    with linked() as link, MortalCluster(tmp_path / "c", 1, host=link.here) as cluster:
        cluster.add(prefix=link.inside)
        with cluster.client() as client, client.as_current():
            act = At(getattr(link, how), blocks=5)
            begun = time.monotonic()
            assert bits(kind, x, act) == undisturbed(kind, x)
            assert act.done
            assert time.monotonic() - begun < 25
