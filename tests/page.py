"""Asks servers over HTTP, answers for them, and signs in at the chat page."""

import json
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit


def ask(
    method: str, url: str, body: object = None, token: str = "", timeout: float = 60
) -> tuple[int, str]:
    """Give status and text of an answer."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=timeout)) as connection:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        sent = None if body is None else json.dumps(body)
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), sent, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def send_json(to: BaseHTTPRequestHandler, body: object) -> None:
    """Answer a request with JSON."""
    raw = json.dumps(body).encode()
    to.send_response(200)
    to.send_header("Content-Type", "application/json")
    to.send_header("Content-Length", str(len(raw)))
    to.end_headers()
    to.wfile.write(raw)


def upload(page: str, token: str, name: str, text: bytes, query: str = "") -> str:
    """Upload a text file as the page does, and give its id."""
    boundary = "----a-boundary"
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    body = b"\r\n".join(
        [
            f"--{boundary}\r\n{head}\r\nContent-Type: text/plain\r\n".encode(),
            text,
            f"--{boundary}--\r\n".encode(),
        ]
    )
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    with closing(HTTPConnection(urlsplit(page).netloc, timeout=60)) as connection:
        connection.request("POST", f"/api/v1/files/{query}", body, headers)
        answer = connection.getresponse()
        answered = answer.read().decode()
    assert answer.status == 200, answered
    identity: str = json.loads(answered)["id"]
    return identity


def sign_in(page: str, email: str, password: str) -> str:
    """Sign an account in and give its token."""
    who = {"email": email, "password": password}
    status, text = ask("POST", f"{page}/api/v1/auths/signin", who)
    assert status == 200, text
    token: str = json.loads(text)["token"]
    return token
