"""A TCP proxy on loopback that cuts, delays, or answers 503 or 413, as it is told while connections run through it."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from typing import Final

REQUEST: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) ")
REFUSAL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TOO_LARGE: Final = REFUSAL.replace(b"503 Service Unavailable", b"413 Content Too Large")


class Proxy:
    """Passes on what comes to `port`, to another port. Set `delay` (seconds), `refused` (share of requests), and
    `too_large` (how the requests begin that are answered with 413)."""

    def __init__(self, port_behind: int) -> None:
        self._behind = port_behind
        self._random = random.Random(0)
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay, self.refused = 0.0, 0.0
        self.too_large: re.Pattern[bytes] | None = None
        self.refusals = 0
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
                self._open |= {client, server}
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if requests:
                    time.sleep(self.delay)
                if requests and REQUEST.match(chunk) and self._random.random() < self.refused:
                    self.refusals += 1
                    source.sendall(REFUSAL)
                    break
                if requests and self.too_large and self.too_large.match(chunk):
                    self._answer(source, TOO_LARGE)
                    break
                target.sendall(chunk)
        self._close(source, target)

    @staticmethod
    def _answer(client: socket.socket, answer: bytes) -> None:
        """Answer, and take the rest of the request: a connection that is closed before loses the answer."""
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._close(self._listener, *self._open)

    def mend(self) -> None:
        """Listen again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()
