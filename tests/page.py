"""HTTP requests to Open WebUI and other servers."""

import json
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit


def ask(
    method: str, url: str, body: object = None, token: str = "", timeout: float = 60
) -> tuple[int, str]:
    """Send a request with a JSON body; return the status and the text of the response."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=timeout)) as connection:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        text = None if body is None else json.dumps(body)
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), text, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def upload(page: str, token: str, name: str, text: bytes, query: str = "") -> str:
    """Upload a text file as the browser does; return its id."""
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
        response = connection.getresponse()
        content = response.read().decode()
    assert response.status == 200, content
    file_id: str = json.loads(content)["id"]
    return file_id


def sign_in(page: str, email: str, password: str) -> str:
    """Sign in; return the account's token."""
    account = {"email": email, "password": password}
    status, text = ask("POST", f"{page}/api/v1/auths/signin", account)
    assert status == 200, text
    token: str = json.loads(text)["token"]
    return token
