"""Whether models really run on the GPU and answer right: one of them is asked now and then."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp
from gateway_meters import WEEK, Meters, Poller, seconds_until
from gateway_rules import Settings
from model_name import canonical

# Whatever a model was made for, it goes on counting, and without its chat template it does not
# think about it first. A GPU that miscalculates repeats a character, or writes noise.
PROMPT, RIGHT = "1, 2, 3, 4, 5, 6, 7, 8,", re.compile(r"\s*9\b")
PATIENCE = 900.0
"""Seconds for an answer: Ollama gives up a load that stands still for 600."""


class Result(NamedTuple):
    """What a check found."""

    share: float | None
    """How much of the model is on the GPU; None when it is not even loaded."""
    correct: bool
    moment: float
    """In Unix time."""


class Check:
    """Asks a model for a few tokens when nobody else asks, and sees where it is loaded.

    After each start of Ollama, and later whenever nothing is loaded, it asks the model of the
    settings; otherwise those that are loaded, so that it never drives one out of the memory. It
    asks no model twice in `check_seconds`, and none that nobody has used since: each question lets
    the model stay loaded for as long as a user's would.
    """

    def __init__(
        self, settings: Settings, session: aiohttp.ClientSession, poller: Poller, meters: Meters
    ) -> None:
        self.settings, self.session, self.poller, self.meters = settings, session, poller, meters
        self.starts = 0
        self.asked: dict[str, float] = {}  # when, by time.monotonic
        self.results: dict[str, Result] = {}

    async def run(self) -> None:
        """Look again and again, whatever Ollama answers."""
        while True:
            with suppress(aiohttp.ClientError, OSError, ValueError, TypeError, LookupError):
                await self.look()
            await asyncio.sleep(self.settings.poll_seconds)

    async def look(self) -> None:
        """Check a model that is due, and give the poller what is known of all."""
        if not self.poller.values["ollama.up"][""]:
            return
        if self.starts != self.poller.starts:  # of what was before, nothing holds
            self.starts, self.asked, self.results = self.poller.starts, {}, {}
        loaded = await self.loaded()
        if (name := self.due(loaded)) and not self.meters.running:
            self.asked[name] = time.monotonic()
            self.meters.used.discard(name)
            if result := await self.check(name, loaded.get(name, {})):
                self.tell(name, result)
                self.results[name] = result
        oldest = time.monotonic() - 2 * self.settings.check_seconds
        self.results = {
            name: result for name, result in self.results.items() if self.asked[name] > oldest
        }
        found = self.results.items()
        self.poller.checks = {
            "ollama.check.gpu": {name: one.share for name, one in found if one.share is not None},
            "ollama.check.correct": {name: float(one.correct) for name, one in found},
            "ollama.check.timestamp": {name: one.moment for name, one in found},
        }

    async def loaded(self) -> dict[str, dict[str, Any]]:
        """Give what `/api/ps` says of each model in memory, by name."""
        url, limit = f"{self.settings.upstream}/api/ps", aiohttp.ClientTimeout(total=5)
        async with self.session.get(url, timeout=limit) as response:
            return {str(one["name"]): one for one in json.loads(await response.read())["models"]}

    def due(self, loaded: Mapping[str, Mapping[str, Any]]) -> str:
        """Name a model to check now; nothing if there is none."""
        latest = time.monotonic() - self.settings.check_seconds
        if not loaded:
            # Only once it is on the disk.
            name = self.poller.known.get(canonical(self.settings.check_model), "")
            return name if self.asked.get(name, latest) <= latest else ""
        for name, model in loaded.items():
            stays = seconds_until(model.get("expires_at")) >= WEEK
            wanted = name not in self.asked or name in self.meters.used or stays
            if wanted and self.asked.get(name, latest) <= latest:
                return name
        return ""

    async def check(self, name: str, model: Mapping[str, Any]) -> Result | None:
        """Ask a model to count; None when it cannot, or Ollama has no time for it."""
        _, about = await self.ask("/api/show", {"model": name})
        if "completion" not in about.get("capabilities", ["completion"]):
            return None
        options: dict[str, Any] = {"temperature": 0, "seed": 0, "num_predict": 8}
        # With another context than it has, it would be loaded anew. One as long as it was trained
        # for is what Ollama makes of every longer one, and nobody knows of which.
        context, trained = model.get("context_length"), about.get("model_info", {}).items()
        if context and context not in (n for key, n in trained if key.endswith("context_length")):
            options["num_ctx"] = context
        asked = {"model": name, "prompt": PROMPT, "raw": True, "stream": False, "options": options}
        try:
            status, answer = await self.ask("/api/generate", asked)
        except aiohttp.ClientError:
            raise
        except TimeoutError:
            status, answer = 500, {}
        if status in (400, 404, 503):
            return None
        now = (await self.loaded()).get(name, {})
        share = now["size_vram"] / now["size"] if now.get("size") else None
        return Result(share, bool(RIGHT.match(str(answer.get("response", "")))), time.time())

    async def ask(self, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Give status and JSON of an answer."""
        url, limit = self.settings.upstream + path, aiohttp.ClientTimeout(total=PATIENCE)
        async with self.session.post(url, json=body, timeout=limit) as response:
            return response.status, dict(json.loads(await response.read()))

    def tell(self, name: str, result: Result) -> None:
        """Print a result that differs from the last one."""
        before = self.results.get(name)
        if before is None or before[:2] != result[:2]:
            where = "not loaded" if result.share is None else f"{result.share:.0%} on the GPU"
            print(f"check of {name}: {where}, {'right' if result.correct else 'wrong'} answer")
