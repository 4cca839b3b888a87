"""The stack is destroyed and made again, on the same disk."""

import re
import subprocess
from pathlib import Path

import pytest
from page import sign_in
from real_lab import Server

pytestmark = pytest.mark.faults

PEOPLE = Path(__file__).parents[2] / "docs" / "people.md"


def set_password(server: Server, password: str) -> str:
    """Set the admin's password by the command of docs/people.md; give what it prints."""
    text = PEOPLE.read_text()
    (program,) = re.findall(r"kubectl (.+?) exec -it (.+?) -- python3 -c '(.+?)'\n\n", text, re.S)
    namespace, pod, lines = program
    lines = lines.replace("\n    ", "\n").replace("admin@homelab.home.arpa", server.email)
    words = [*namespace.split(), "exec", "-i", pod, "--", "python3", "-c", lines]
    done = subprocess.run(
        [*server.cluster.kubectl, *words],
        input=f"{password}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_stack_made_again_finds_chats_and_accounts_where_they_were(server: Server) -> None:
    chat, password = server.keep_chat(), server.password

    server.engine.destroy(lambda _: None)
    assert not [
        pod["metadata"]["name"]
        for pod in server.objects("v1", "Pod")
        if pod["metadata"]["namespace"] in ("ollama-stack", "observability")
    ]
    server.begin()

    # The new one of the output is for a new disk, as the output beside it says.
    new, server.password = server.password, password
    assert "old passwords are still valid" in server.engine.outputs()["open_webui_account"][0]
    assert server.title(chat) == "kept"
    assert server.models(server.token()) >= {*server.config["ollama"]["models"]}
    assert set_password(server, new).endswith("1 changed\n")
    server.password = new
    assert sign_in(server.page, server.email, new)
