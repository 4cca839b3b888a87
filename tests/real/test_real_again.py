"""The stack is destroyed and made again, on the same disk."""

import pytest
from real_lab import Server

pytestmark = pytest.mark.faults


def test_a_stack_made_again_finds_chats_and_accounts_where_they_were(server: Server) -> None:
    chat, password = server.keep_chat(), server.password

    server.engine.destroy(lambda _: None)
    assert not [
        pod["metadata"]["name"]
        for pod in server.objects("v1", "Pod")
        if pod["metadata"]["namespace"] in ("ollama-stack", "observability")
    ]
    server.begin()

    # The new one of the output is for a new disk only (docs/people.md).
    server.password = password
    assert server.title(chat) == "kept"
    assert server.models(server.token()) >= {*server.config["ollama"]["models"]}
