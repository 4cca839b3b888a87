"""Stands in for an image that comes from no package registry; it is run in a container.

placeholder.py NAME [PORT]: says what it is, in its log and, if there is a port, to who asks there.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# To who scrapes it, this is a comment.
TEXT = f"# A placeholder for {sys.argv[1]}, whose image cannot be had here."


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the text, so that probes are content."""

    def do_GET(self) -> None:
        """Give the text."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{TEXT}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of each request."""


if __name__ == "__main__":
    print(TEXT, flush=True)
    if len(sys.argv) > 2:
        ThreadingHTTPServer(("", int(sys.argv[2])), Handler).serve_forever()
    threading.Event().wait()
