"""A TCP proxy on loopback that limits, counts, cuts and stalls what passes to a server."""

import contextlib
import socket
import threading
import time

_PART = 2**16


class Proxy:
    """Before the server at `target`, a port. `rate`: bytes a second in each direction, in all.

    `up`, `down`: bytes moved to the server and from it. `delay`: seconds that each part takes to
    pass. Clear `flowing`: connections stay open, and nothing passes any more.
    """

    def __init__(self, target: int, rate: float | None = None) -> None:
        self.rate, self.delay = rate, 0.0
        self.up = self.down = 0
        self.connections = 0
        self.most_at_once = 0
        self.flowing = threading.Event()
        self.flowing.set()
        self._target = target
        self._left: int | None = None
        self._lock = threading.Lock()
        self._next = {"up": 0.0, "down": 0.0}
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def moved(self) -> int:
        return self.up + self.down

    def forget(self) -> None:
        """Counts from zero."""
        self.up = self.down = self.connections = self.most_at_once = 0

    def cut(self) -> None:
        """Closes every connection at once; new ones are taken."""
        with self._lock:
            cut, self._open = self._open, set()
        for one in cut:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut_after(self, num_bytes: int) -> None:
        """Cuts, once, when as many more bytes have moved."""
        with self._lock:
            self._left = num_bytes

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.flowing.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
                self.connections += 1
                self.most_at_once = max(self.most_at_once, len(self._open) // 2)
            for pair in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._move, args=pair, daemon=True).start()

    def _connect(self) -> socket.socket:
        server = socket.socket()
        if self.rate is not None:  # what waits in the kernel has not passed
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PART)
        try:
            server.connect(("127.0.0.1", self._target))
        except OSError:
            server.close()
            raise
        return server

    def _move(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(_PART if self.rate is None else 2**13):
                self._account(way, len(part))
                self.flowing.wait()
                target.sendall(part)
        with self._lock:
            self._open -= {source, target}
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if way == "down":
            source.close()
            target.close()

    def _account(self, way: str, num_bytes: int) -> None:
        with self._lock:
            setattr(self, way, getattr(self, way) + num_bytes)
            cuts = False
            if self._left is not None:
                self._left -= num_bytes
                if self._left <= 0:
                    self._left, cuts = None, True
            wait = 0.0
            if self.rate is not None:
                now = time.monotonic()
                begins = max(self._next[way], now)
                self._next[way] = begins + num_bytes / self.rate
                wait = begins - now
        if cuts:
            self.cut()
        time.sleep(wait + self.delay)
