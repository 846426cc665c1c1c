"""A web server behind a slow link: a process of its own that serves a directory's files.

Each answer begins after a latency, all bodies together have a bandwidth, and each connection one of
its own, as object stores have it. Ranges, entity tags and preconditions are served as RFC 9110 has
them. It counts what it is asked for, and some answers may be made to stand still.

Bodies go from file to socket in the kernel (`sendfile`), so that a server on the same machine takes
little of the processor that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Counts", "Link", "SlowLink", "slow_link"]

SLICE = 2**17
"""Bytes that a body sends at a time, when the bandwidth allows it."""

CREDIT = 0.005
"""Seconds of bandwidth that a link that was idle may make up for: sleeping is no finer."""


@dataclass
class Link:
    """What the link is like; a bandwidth of 0 has no bound.

    Attributes
    ----------
    latency : float
        Seconds from a request to the first byte of its answer.
    bandwidth, connection : float
        Bytes a second of all bodies, and of one connection.
    stall_every : int
        Of so many answers one stands still half way; 0 for none.
    stall : float
        Seconds that it stands still.
    versions : bool
        Whether answers carry an entity tag and a time.
    ranges : bool
        Whether parts of a file are served; else all of it is, whatever was asked for.
    rewritten : bool
        Whether the entity tag is another one with each answer, as if the file were written anew.
    """

    latency: float = 0.0
    bandwidth: float = 0.0
    connection: float = 0.0
    stall_every: int = 0
    stall: float = 0.0
    versions: bool = True
    ranges: bool = True
    rewritten: bool = False


@dataclass
class Counts:
    """What was asked for since the last look.

    Attributes
    ----------
    requests : int
        Requests for files that are there.
    ranged : int
        Those of them that asked for a part.
    bytes : int
        Bytes of bodies sent.
    most : int
        Most requests under way at a time.
    connections : int
        Connections that were opened.
    given_up : int
        Answers that nobody waited for.
    """

    requests: int = 0
    ranged: int = 0
    bytes: int = 0
    most: int = 0
    connections: int = 0
    given_up: int = 0


class _Bucket:
    """Bytes a second, handed out in order of asking."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    def wait(self, size: int) -> float:
        """Take `size` bytes; return the seconds until they are due."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._next = max(self._next, now - CREDIT) + size / self._rate
        return self._next - now


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]

    @classmethod
    def of(cls, head: bytes) -> _Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return cls(method, unquote(path), headers)


class _Server:
    def __init__(self, root: Path, link: Link) -> None:
        self._root = root
        self._link = link
        self._bucket = _Bucket(link.bandwidth)
        self._counts = Counts()
        self._answers = 0
        self._now = 0

    async def serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tasks = set()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._converse(connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        own, read, first = _Bucket(self._link.connection), b"", True
        with connection, suppress(ConnectionError):
            while True:
                while b"\r\n\r\n" not in read:
                    more = await loop.sock_recv(connection, 65536)
                    if not more:
                        return
                    read += more
                head, _, read = read.partition(b"\r\n\r\n")
                request = _Request.of(head)
                if request.path.startswith("/-/"):
                    await loop.sock_sendall(connection, self._control(request))
                    continue
                self._counts.connections += first
                first = False
                self._now += 1
                self._counts.most = max(self._counts.most, self._now)
                try:
                    await self._answer(connection, own, request)
                finally:
                    self._now -= 1

    def _control(self, request: _Request) -> bytes:
        """Answer who asks for the counts, or changes the link."""
        counts, self._counts = self._counts, Counts()
        if request.path.startswith("/-/link?"):
            self._link = Link(**json.loads(request.path.partition("?")[2]))
            self._bucket = _Bucket(self._link.bandwidth)
            self._answers = 0
        body = json.dumps(asdict(counts)).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def _answer(self, connection: socket.socket, own: _Bucket, request: _Request) -> None:
        loop, link = asyncio.get_running_loop(), self._link
        await asyncio.sleep(link.latency)
        file = (self._root / request.path.lstrip("/")).resolve()
        if not file.is_file() or self._root not in file.parents:
            await loop.sock_sendall(connection, _head("404 Not Found", {"Content-Length": 0}))
            return
        self._counts.requests += 1
        with file.open("rb") as content:
            status = os.fstat(content.fileno())
            headers: dict[str, Any] = {"Accept-Ranges": "bytes"}
            tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if link.rewritten:
                tag = f'"{self._answers}"'
            if link.versions:
                headers |= {"ETag": tag, "Last-Modified": formatdate(status.st_mtime, usegmt=True)}
            if link.versions and request.headers.get("if-match", tag) != tag:
                code = "412 Precondition Failed"
                await loop.sock_sendall(connection, _head(code, {"Content-Length": 0}))
                return
            start, stop, code = 0, status.st_size, "200 OK"
            if "range" in request.headers and link.ranges:
                self._counts.ranged += 1
                start, stop = _range(request.headers["range"], status.st_size)
                code = "206 Partial Content"
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
                if start >= stop:
                    code = "416 Range Not Satisfiable"
                    headers["Content-Range"] = f"bytes */{status.st_size}"
                    start = stop = 0
            headers["Content-Length"] = stop - start
            await loop.sock_sendall(connection, _head(code, headers))
            if request.method == "GET":
                await self._send(connection, own, content.fileno(), start, stop)

    async def _send(
        self, connection: socket.socket, own: _Bucket, file: int, start: int, stop: int
    ) -> None:
        self._answers += 1
        link, half = self._link, (start + stop) // 2
        stalls = bool(link.stall_every) and self._answers % link.stall_every == 0
        try:
            while start < stop:
                if stalls and start >= half:
                    stalls = False
                    await _stand_still(connection, link.stall)
                size = min(SLICE, (half if stalls else stop) - start)
                wait = max(self._bucket.wait(size), own.wait(size))
                if wait > 0:
                    await asyncio.sleep(wait)
                end = start + size
                while start < end:
                    try:
                        sent = os.sendfile(connection.fileno(), file, start, end - start)
                    except BlockingIOError:
                        await _writable(connection)
                        continue
                    start += sent
                    self._counts.bytes += sent
        except ConnectionError:
            self._counts.given_up += 1
            raise


async def _stand_still(connection: socket.socket, seconds: float) -> None:
    """Send nothing for a while, or until the other side has gone."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if not await loop.sock_recv(connection, 1):
                raise ConnectionResetError


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(connection, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


def _head(status: str, headers: dict[str, Any]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _range(value: str, size: int) -> tuple[int, int]:
    """Return where a part of a file begins and ends."""
    first, _, last = value.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


@dataclass(frozen=True)
class SlowLink:
    """A server that runs."""

    url: str

    def counts(self) -> Counts:
        """Return what was asked for since the last look, and begin anew."""
        return self._control("counts")

    def become(self, link: Link) -> None:
        """Make the link another for what comes, on connections that are open too."""
        self._control("link?" + json.dumps(asdict(link), separators=(",", ":")))

    def _control(self, what: str) -> Counts:
        with urllib.request.urlopen(f"{self.url}/-/{what}") as answer:
            return Counts(**json.load(answer))


@contextmanager
def slow_link(root: str | os.PathLike[str], link: Link | None = None) -> Iterator[SlowLink]:
    """Serve the files below `root` from a process of its own; it ends with the ``with``."""
    options = asdict(Link() if link is None else link)
    command = [sys.executable, "-m", "tests.slow_link", os.fspath(root), json.dumps(options)]
    here = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(here)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=here, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield SlowLink(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def main() -> None:
    """Serve until somebody ends it; the first line of output is the port."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("link", type=json.loads)
    arguments = parser.parse_args()
    link = Link(**{f.name: arguments.link[f.name] for f in fields(Link)})
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        with suppress(KeyboardInterrupt):
            asyncio.run(_Server(arguments.root.resolve(), link).serve(listener))


if __name__ == "__main__":
    main()
