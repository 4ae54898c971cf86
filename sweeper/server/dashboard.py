"""The Optuna dashboard of `sweeper serve`: on loopback, read-only, and only for pages of its own address.

The dashboard has no authentication. It is protected in four ways: it listens on loopback, it refuses other Host headers
(against DNS rebinding), it refuses requests that write, and its database role may only read.
Run as `python -m sweeper.server.dashboard PORT [ADDRESS]`, with the database in DATABASE_URL. In a container the
address is 0.0.0.0, and the engine publishes the port on the machine's loopback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

HOST: Final = "127.0.0.1"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ThreadedServer(ThreadingMixIn, WSGIServer):
    """Serves requests in parallel."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    """Logs errors, not requests."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


def guarded(application: Application, port: int) -> Application:
    """Wrap the application in checks of Host and method, and answer at /health."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        plain = [("Content-Type", "text/plain")]
        if environ.get("HTTP_HOST") not in hosts:
            start_response("403 Forbidden", plain)
            return [b"unknown host"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", plain)
            return [b"this dashboard is for reading"]
        if environ["PATH_INFO"] == "/health":
            start_response("200 OK", plain)
            return [b"OK"]
        return application(environ, start_response)

    return answer


def main() -> None:
    """Serve until a signal ends the process."""
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi  # type: ignore[import-untyped]

    port, address = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else HOST
    storage = RDBStorage(os.environ.pop("DATABASE_URL"), skip_table_creation=True)
    application = guarded(wsgi(storage), port)
    make_server(address, port, application, server_class=ThreadedServer, handler_class=QuietHandler).serve_forever()


if __name__ == "__main__":
    main()
