"""A person at the chat page: the real Open WebUI in a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, WebSocket, sync_playwright
from real_lab import ARTEFACTS, Server
from waiting import eventually

pytestmark = pytest.mark.faults

CHROMIUM = shutil.which("chromium")
# How Open WebUI says that an answer is whole.
END = '"done":true'


@pytest.fixture(params=["admin", "user"])
def window(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> Iterator[tuple[Page, list[str]]]:
    """Who is about to sign in, the admin on this machine, the user at the client on the LAN.

    Gives the page, and what it receives over its websocket.
    """
    if not CHROMIUM:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    person, address, program = server.person(request.param), server.page, CHROMIUM
    if request.param == "user":
        address, program = "http://192.168.1.101:8080", str(tmp_path / "chromium")
        enter = " ".join(server.cluster.command("client", CHROMIUM))
        Path(program).write_text(f'#!/bin/sh\nexec {enter} "$@"\n')
        Path(program).chmod(0o755)
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container and root do not have.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(300_000)
        frames: list[str] = []

        def listen(socket: WebSocket) -> None:
            socket.on("framereceived", lambda frame: frames.append(str(frame)))

        page.on("websocket", listen)
        page.goto(address)
        page.fill("#email", person.email)
        page.fill("#password", person.password)
        yield page, frames
        browser.close()


def test_an_answer_arrives_over_the_websocket(window: tuple[Page, list[str]]) -> None:
    page, frames = window
    page.get_by_role("button", name="Sign in").click()
    question = page.locator("#chat-input")
    question.wait_for()
    # What is new is shown to the admin alone, a moment after the page.
    with suppress(Error):
        page.get_by_role("button", name="Okay, Let's Go!").click(timeout=20_000)
    question.press_sequentially("Say something.")
    question.press("Enter")

    answer = page.locator(".chat-assistant").first
    answer.wait_for(timeout=60_000)

    def ended() -> bool:
        page.wait_for_timeout(200)  # frames arrive while Playwright waits
        return any(END in frame for frame in frames)

    complete = eventually(ended)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    picture = ARTEFACTS / f"chat-{page.url.split('/')[2].partition(':')[0]}.png"
    page.screenshot(path=picture)
    print(f"written: {picture}")

    assert complete
    deltas = [frame for frame in frames if "chat:completion" in frame]
    assert len(deltas) > 1

    def drawn() -> str:
        page.wait_for_timeout(200)
        return answer.inner_text().strip()

    assert eventually(drawn)
