"""A proxy that breaks 30% of the requests: `python wire_proxy.py PORT TARGET SEED`. Killed and restarted by a test."""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle

SHARE = 0.3
FAULTS = ("reset", "busy", "busy at a time", "late", "silent", "cut", "half json", "html", "broken engine")


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = ""
    chance = random.Random()
    faults = cycle(FAULTS)
    lock = threading.Lock()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.lock:
            fault = next(self.faults) if self.chance.random() < SHARE else ""
        if fault == "reset":
            self.end(hard=True)
        elif fault.startswith("busy"):
            self.say(503, b'{"error":"server busy"}', {"Retry-After": "0"} if fault != "busy" else {})
        elif fault == "broken engine":
            self.say(500, b'{"error":"unexpected EOF"}')
        elif fault == "html":
            self.say(200, b"<html>bad gateway</html>")
        else:
            time.sleep({"late": 0.2, "silent": 3.0}.get(fault, 0.0))
            status, content = self.forward(body)
            half = content[: len(content) // 2] if fault == "half json" else content
            self.say(status, half, cut=fault == "cut")

    do_GET = do_POST = handle_any

    def forward(self, body: bytes) -> tuple[int, bytes]:
        asked = urllib.request.Request(self.target + self.path, body or None, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def say(self, status: int, content: bytes, more: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.end()

    def end(self, hard: bool = False) -> None:
        if hard:  # a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def log_message(self, *_: object) -> None: ...

    def finish(self) -> None:
        if self.connection.fileno() >= 0:
            super().finish()


if __name__ == "__main__":
    Proxy.target = sys.argv[2]
    Proxy.chance = random.Random(int(sys.argv[3]))
    for _ in range(4 * int(sys.argv[3])):  # each life begins with other faults
        next(Proxy.faults)
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
