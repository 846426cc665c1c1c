"""Tells a cluster's scheduler something once a second, beside the work and at no risk to it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from distributed.protocol import pickle

from dask_gmm.execution.machine import package_versions

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["POST_EVERY", "Poster"]

_log = logging.getLogger(__name__)

POST_EVERY = 1.0
"""Seconds between two messages."""
SEND_TIMEOUT = 5.0
"""Seconds after which a message is given up; the next one says all that it would have said."""
LAST_SECONDS = 0.2
"""Seconds that a fit waits at most for its last message, in its end."""
PLACE_EVERY = 60.0
"""Seconds after which a scheduler is asked again to take the plugin: it may be another one."""

# `distributed` is annotated in places only, and differently from release to release.
Client = Any

#: When the plugin was last brought to a client's scheduler.
_PLACED: WeakKeyDictionary[Client, float] = WeakKeyDictionary()


class Poster:
    """Posts what a function returns, from a thread of its own.

    Nothing here raises, and nobody waits for it but the last message, for `LAST_SECONDS`.

    Parameters
    ----------
    client : callable
        Returns the client that there is now.
    topic, message, first, plugin
        As of `Backend.posting`.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        topic: str,
        message: Callable[[], dict[str, Any]],
        first: float,
        plugin: Callable[[], Any] | None,
    ) -> None:
        self._client = client
        self._topic = topic
        self._message = message
        self._first = first
        self._plugin = plugin
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dask-gmm-posts", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        if self._over.wait(self._first) and self._first:
            return
        while True:
            over = self._over.is_set()
            self._post()
            if over:
                return
            self._over.wait(POST_EVERY)

    def _post(self) -> None:
        try:
            client = self._client()
            if client.status != "running":
                return
            loop, message = client.loop.asyncio_loop, self._message()
            sending = asyncio.run_coroutine_threadsafe(self._send(client, message), loop)
            try:
                sending.result(SEND_TIMEOUT)
            finally:
                sending.cancel()
        except BaseException:  # noqa: BLE001 - a client that closes, a scheduler that is gone, ...
            _log.debug("A message to the scheduler was not sent.", exc_info=True)

    async def _send(self, client: Client, message: dict[str, Any]) -> None:
        await client.scheduler.log_event(topic=self._topic, msg=message)
        now = time.monotonic()
        if self._plugin is not None and now - _PLACED.get(client, -PLACE_EVERY) >= PLACE_EVERY:
            _PLACED[client] = now
            await self._place(client)

    async def _place(self, client: Client) -> None:
        """Give the scheduler the plugin, which it can import if it has the same release."""
        assert self._plugin is not None
        mine = package_versions().get("dask-gmm")
        # The module's name, which 2025.1 imports; later ones know distributions by it too.
        answer = await client.scheduler.versions(packages=["dask_gmm"])
        theirs = answer["packages"].get("dask_gmm")
        if mine is None or theirs != mine:
            _log.debug("The scheduler has dask-gmm %s, and no page of fits.", theirs)
            return
        plugin, untyped = self._plugin(), cast(Any, pickle)
        await client.scheduler.register_scheduler_plugin(
            plugin=untyped.dumps(plugin), name=plugin.name, idempotent=True
        )
