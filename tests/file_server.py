"""A real HTTP server on this machine that misbehaves as told."""

import re
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Server:
    """Serves `files`; `script[path]` is a list of misbehaviours, one spent by each request."""

    def __init__(self):
        self.files, self.script, self.asked = {}, defaultdict(list), []
        self.range_works, self.slow, self.etag, self.retry_after = True, 0.0, '"v1"', ""
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_script": self}))
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def ranges(self):
        return [asked for _, asked, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    server_script = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.server_script, unquote(self.path)
        server.asked.append((path, self.headers["Range"], self.headers["If-Range"]))
        act = server.script[path].pop(0) if server.script[path] else ""
        if act.startswith("status"):
            return self.refuse(int(act.split()[1]))
        body = server.files.get(path)
        if body is None:
            return self.refuse(404)
        if act == "altered":
            body = body[:-1] + bytes([body[-1] ^ 1])
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-").group(1))
        same = self.headers["If-Range"] in (None, server.etag)
        partial = start and server.range_works and same and act != "no range"
        if partial and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return None
        self.send_response(206 if partial else 200)
        if partial:
            claimed = 0 if act == "wrong range" else start
            self.send_header("Content-Range", f"bytes {claimed}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: int(act.split()[1])] if act.startswith("cut") else body
        for place in range(0, len(sent), 4096):
            try:
                self.wfile.write(sent[place : place + 4096])
            except ConnectionError:  # the client has been killed, or has seen enough
                return None
            time.sleep(server.slow)
        return None

    def refuse(self, status):
        self.send_response(status)
        self.send_header("Retry-After", self.server_script.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()
