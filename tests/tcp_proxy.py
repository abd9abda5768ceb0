"""A link that a test can cut, silence or slow down: a proxy of TCP in threads."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_BLOCK = 4096


class TcpProxy:
    """Passes bytes on between its port and another.

    Attributes:
        address: Its own.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._bps: float | None = None
        self._cut = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:
            self._cut = True
            sockets = list(self._sockets)
        for one in sockets:
            _shut(one)

    def silence(self) -> None:
        """Take bytes and pass none on, as a network that swallows packets."""
        self._passing.clear()

    def throttle(self, bps: float | None) -> None:
        """Pass bytes to the server no faster than this; None for as fast as they come."""
        self._bps = bps

    def restore(self) -> None:
        """Pass everything on again."""
        self._cut = False
        self._passing.set()

    def close(self) -> None:
        """End all threads."""
        self._closed = True
        self.cut()
        self._passing.set()
        _shut(self._listener)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, sink, up), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        due_s = time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK):
                self._passing.wait()
                bps = self._bps
                if up and bps is not None:
                    due_s = max(due_s, time.monotonic()) + 8 * len(data) / bps
                    time.sleep(max(0.0, due_s - time.monotonic()))
                sink.sendall(data)
        for one in (source, sink):
            _shut(one)
        with self._lock:
            self._sockets -= {source, sink}


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextlib.contextmanager
def tcp_proxy(target_port: int) -> Iterator[TcpProxy]:
    """Such a proxy, as long as this lasts."""
    proxy = TcpProxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
