"""A real HTTP server on loopback that counts what it is asked, and fails when told to."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"

# What a request gets instead of the file: a status, half of the bytes and then silence ("cut"),
# a page with status 200 ("page"), bytes without end ("endless"), or anything by a function.
Fault = int | str | Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Serves a folder. `ranges`: whether it can send the rest of a file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges = True
        self.lists = True
        self.asked: list[str] = []
        self.rests: list[str] = []
        self.sent: Counter[str] = Counter()
        self.faults: dict[str, deque[Fault]] = {}
        self.gather: threading.Barrier | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def chunks(self) -> list[str]:
        """The chunks of targets that were asked for, in order."""
        return [path for path in self.asked if "/c/" in path and "/mentors/" in path]

    def fail(self, part: str, *faults: Fault) -> None:
        """The next requests whose path has this part get these, one after another."""
        self.faults[part] = deque(faults)

    def forget(self) -> None:
        self.asked.clear()
        self.rests.clear()
        self.sent.clear()

    def fault_of(self, path: str) -> Fault | None:
        with self.lock:
            self.asked.append(path)
            for part, faults in self.faults.items():
                if part in path and faults:
                    return faults.popleft()
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our business."""


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def __init__(self, request: Any, client_address: Any, server: Server) -> None:
        super().__init__(request, client_address, server, directory=str(server.folder))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        fault = self.server.fault_of(self.path)
        file = Path(self.translate_path(self.path))
        if "/c/" in self.path and "/mentors/" in self.path and self.server.gather is not None:
            self.server.gather.wait(timeout=20)
        if isinstance(fault, int):
            return self.send_error(fault)
        if callable(fault):
            return fault(self)
        if fault == "page":
            return self.answer(PAGE)
        if fault == "endless":
            return self.send_endlessly()
        if file.is_dir() or not file.is_file():
            if file.is_dir() and not self.server.lists:
                return self.send_error(403)
            return super().do_GET()
        content, start = file.read_bytes(), 0
        asked = self.headers.get("Range")
        if asked is not None:
            self.server.rests.append(self.path)
        if asked is not None and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if fault == "cut":
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.wfile.write(rest)
        self.server.sent[self.path] += len(rest)

    def answer(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_endlessly(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        block = bytes(2**16)
        while True:  # until the client hangs up
            self.wfile.write(block)
            self.server.sent[self.path] += len(block)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of this folder."""
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
