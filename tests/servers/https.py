"""A folder behind HTTPS: nginx, whose certificate a CA of the tests' own has signed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.servers.process import free_port, program, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.certificates import Certified

__all__ = ["serve_https"]

_SETTINGS = """
{user}daemon off;
worker_processes 1;
pid {state}/pid;
error_log {state}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {state}/body;
  proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi;
  uwsgi_temp_path {state}/uwsgi;
  scgi_temp_path {state}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {root};
    autoindex off;
  }}
}}
"""


@contextmanager
def serve_https(root: Path, certified: Certified, state: Path) -> Iterator[str]:
    """Serve a folder without listing it; yield its URL.

    Parameters
    ----------
    root : Path
        The folder.
    certified : Certified
        What the server proves itself by.
    state : Path
        Another folder, for what nginx itself writes.
    """
    nginx = program("nginx", "apt-get install nginx-light")
    state.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = state / "nginx.conf"
    settings.write_text(
        _SETTINGS.format(
            user="user root;" if os.geteuid() == 0 else "",  # or its workers may not read
            state=state,
            port=port,
            certificate=certified.certificate,
            key=certified.key,
            root=root,
        )
    )
    with served([nginx, "-p", str(state), "-c", str(settings)], port, state / "log"):
        yield f"https://127.0.0.1:{port}"
