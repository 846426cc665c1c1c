"""An HTTP proxy that does to requests what networks and overloaded stores do.

It stands before a server of this machine, in a thread with an event loop of its own. Which request
meets a fault depends on a seed, on what is asked for and on how often that was asked before, not on
the order in which threads ask, nor on names that are drawn anew for each run: the same requests
meet the same faults. Each rule counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Answer", "Body", "FaultProxy", "Hang", "Reset", "Rule", "fault_proxy", "s3_error"]

_LINGER_NOT = struct.pack("ii", 1, 0)  # close by RST, not by FIN
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """Another answer in place of the server's."""

    status: int
    reason: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def s3_error(status: int, reason: str, code: str, message: str, **headers: str) -> Answer:
    """Return an error as S3 answers it: a small XML document."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>"
        "<RequestId>0A49CE4060975EAC</RequestId></Error>"
    )
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, reason, body.encode(), (("Content-Type", "application/xml"), *named))


@dataclass(frozen=True)
class Reset:
    """A connection that is reset: before any of the answer, or behind half of its body."""

    where: Literal["before", "in the body"]


@dataclass(frozen=True)
class Body:
    """A body that is not the server's.

    "cut off" ends after half of what its length promises, "cut off unseen" has the length of that
    half, "flipped" has a bit flipped at `at` of its length.
    """

    how: Literal["cut off", "cut off unseen", "flipped"]
    at: float = 0.4


@dataclass(frozen=True)
class Hang:
    """A body that stands still after its half; the connection stays open."""


Fault = Answer | Reset | Body | Hang


@dataclass
class Rule:
    """Which requests meet a fault.

    Attributes
    ----------
    fault : Answer, Reset, Body or Hang
    rate : float, default=1.0
        Share of the requests that meet it.
    times : int, optional
        How many do at most.
    times_each : int, optional
        How many of the same do at most: the same method, path and range.
    after : int, default=0
        How many are answered before the first that may meet it.
    method, path : str
        Regular expressions; the whole method, and what the path must contain.
    access_key : str
        If given, only requests that are signed by this key.
    reaches : bool, default=False
        Whether the server does what it is told, and only its answer meets the fault.
    seed : int
    """

    fault: Fault
    rate: float = 1.0
    times: int | None = None
    times_each: int | None = None
    after: int = 0
    method: str = "GET"
    path: str = "/c/"
    access_key: str = ""
    reaches: bool = False
    seed: int = 0
    injected: int = field(default=0, init=False)
    asked: int = field(default=0, init=False)
    _seen: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def strikes(self, request: _Request) -> bool:
        """Count a request, and say whether it meets the fault."""
        if not re.fullmatch(self.method, request.method) or not re.search(self.path, request.path):
            return False
        if self.access_key and request.access_key != self.access_key:
            return False
        self.asked += 1
        target = re.sub("[0-9a-f]{12,}", "…", request.target)  # names that are drawn anew
        same = f"{request.method} {target} {request.headers.get('range', '')}"
        nth = self._seen[same]
        self._seen[same] += 1
        if self.asked <= self.after or self.injected == self.times:
            return False
        if self.times_each is not None and nth >= self.times_each:
            return False
        drawn = hashlib.sha256(f"{self.seed} {nth} {same}".encode()).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return False
        self.injected += 1
        return True


@dataclass(frozen=True)
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def access_key(self) -> str:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
        return found[1] if found else ""


class FaultProxy:
    """The proxy; see `fault_proxy`.

    Attributes
    ----------
    endpoint : str
        Its URL.
    rules : list of Rule
        The first that strikes has its way. To be changed at any time.
    """

    def __init__(self, upstream: str) -> None:
        split = urlsplit(upstream)
        self._host, self._port = split.hostname or "127.0.0.1", split.port or 80
        self.rules: list[Rule] = []
        self.endpoint = ""
        self._lock = threading.Lock()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._answer(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: _Request, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; False if the connection is of no more use."""
        with self._lock:
            rule = next((rule for rule in self.rules if rule.strikes(request)), None)
        fault = None if rule is None else rule.fault
        instead = isinstance(fault, Answer) or fault == Reset("before")
        if rule is None or rule.reaches or not instead:
            head, body = await self._forward(request)
        if fault is None:
            writer.write(head + body)
            await writer.drain()
            return True
        if isinstance(fault, Answer):
            writer.write(_encoded(fault, request.method))
            await writer.drain()
            return True
        if isinstance(fault, Reset):
            if fault.where == "in the body":
                writer.write(head + body[: len(body) // 2])
                await writer.drain()
                await asyncio.sleep(0.02)  # a reset overtakes what is still to be read
            _reset(writer)
            return False
        if isinstance(fault, Body):
            return await _change(fault, head, body, writer)
        writer.write(head + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(3600)
        return False

    async def _forward(self, request: _Request) -> tuple[bytes, bytes]:
        """Return the server's answer, as head and body."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            first, _, rest = request.head.partition(b"\r\n")
            rest = re.sub(rb"(?im)^connection:[^\r]*\r\n", b"", rest)
            writer.write(first + b"\r\nConnection: close\r\n" + rest + request.body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(_END)
        head = re.sub(rb"(?im)^connection:[^\r]*(\r\n)?", b"", head + b"\r\n")
        head = re.sub(rb"^HTTP/1\.0", b"HTTP/1.1", head)
        if b"transfer-encoding: chunked" in head.lower():
            head = re.sub(rb"(?im)^transfer-encoding:[^\r]*\r\n", b"", head)
            body = _unchunked(body)
            head += f"Content-Length: {len(body)}\r\n".encode()
        return head + b"\r\n", body


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    try:
        head = await reader.readuntil(_END)
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return _Request(method, target, headers, head, body)


async def _change(fault: Body, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Send a body that is not the server's."""
    half = body[: len(body) // 2]
    if fault.how == "cut off":
        writer.write(head + half)
        await writer.drain()
        return False
    if fault.how == "cut off unseen":
        length = f"Content-Length: {len(half)}\r\n".encode()
        writer.write(re.sub(rb"(?im)^content-length:[^\r]*\r\n", length, head) + half)
    else:
        changed = bytearray(body)
        if changed:
            changed[int(fault.at * len(changed))] ^= 4
        writer.write(head + changed)
    await writer.drain()
    return True


def _encoded(answer: Answer, method: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join(lines).encode() + _END + (b"" if method == "HEAD" else answer.body)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        whole, body = whole + rest[:length], rest[length + 2 :]
        if length == 0:
            break
    return whole


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy before the server at a URL, until the end of the ``with``."""
    proxy = FaultProxy(upstream)
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with await proxy.serve():
            ready.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    def run() -> None:
        task = loop.create_task(main())
        ends.append(lambda: loop.call_soon_threadsafe(task.cancel))
        loop.run_until_complete(task)
        others = asyncio.all_tasks(loop)
        for other in others:
            other.cancel()
        loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))
        loop.close()

    ends: list[object] = []
    thread = threading.Thread(target=run, name="fault-proxy", daemon=True)
    thread.start()
    if not ready.wait(10.0):
        raise RuntimeError("the fault proxy did not start")
    try:
        yield proxy
    finally:
        for end in ends:
            assert callable(end)
            end()
        thread.join(10.0)
