"""Stands in for an image that no package registry has; runs in its container.

placeholder.py NAME [PORT] prints what it is and, with a port, answers every request with it.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A comment, for whatever scrapes it.
TEXT = f"# A placeholder for {sys.argv[1]}, whose image cannot be had here."


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the text, so that probes succeed."""

    def do_GET(self) -> None:
        """Send the text."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{TEXT}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log no requests."""


if __name__ == "__main__":
    print(TEXT, flush=True)
    if len(sys.argv) > 2:
        ThreadingHTTPServer(("", int(sys.argv[2])), Handler).serve_forever()
    threading.Event().wait()
