"""A person at the chat page: the real Open WebUI in a real browser."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, WebSocket, sync_playwright
from real_house import ARTEFACTS, House, Person
from waiting import eventually

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def page() -> Iterator[Page]:
    """A window of the browser that this machine has."""
    if not CHROMIUM:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container and root do not have.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


# How Open WebUI says that an answer is whole.
END = '"done":true'


def test_an_answer_arrives_over_the_websocket(house: House, person: Person, page: Page) -> None:
    frames: list[str] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: frames.append(str(frame)))

    page.on("websocket", listen)
    page.goto(house.page)
    page.fill("#email", person.email)
    page.fill("#password", person.password)
    page.get_by_role("button", name="Sign in").click()
    news = page.get_by_role("button", name="Okay, Let's Go!")  # what is new, to the admin alone
    page.locator("#chat-input").or_(news).first.wait_for()
    if news.is_visible():
        news.click()
    page.locator("#chat-input").click()
    page.keyboard.type("Say something.")
    page.keyboard.press("Enter")

    answer = page.locator(".chat-assistant").first
    answer.wait_for(timeout=30_000)

    def ended() -> bool:
        page.wait_for_timeout(200)  # frames arrive while Playwright waits
        return any(END in frame for frame in frames)

    complete = eventually(ended)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    picture = ARTEFACTS / f"chat-{person.email.partition('@')[0]}.png"
    page.screenshot(path=picture)
    print(f"written: {picture}")

    assert complete
    deltas = [frame for frame in frames if "chat:completion" in frame]
    assert len(deltas) > 1
    assert answer.inner_text().strip()
