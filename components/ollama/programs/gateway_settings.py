"""Settings of the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from model_name import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings by environment variable, such as `GATEWAY_BANDWIDTH=89.6e9`."""

    listen: str = "0.0.0.0:11434"
    upstream: str = "http://127.0.0.1:11435"
    otlp_url: str = ""  # complete; empty: no push
    push_seconds: float = 10
    poll_seconds: float = 15
    manage_token: str = field(default="", repr=False)  # empty: models cannot be changed
    bandwidth: float = 0  # memory bandwidth in bytes/s; 0: unknown
    read_bytes: str = ""  # "model=bytes,…" read per token, if less than the file (MoE)
    user_label: str = "off"  # "on": metrics have a pseudonym of the user
    user_key: str = field(default="", repr=False)
    user_header: str = "X-OpenWebUI-User-Id"
    user_cap: int = 20  # pseudonyms; further users are "other"
    grace_seconds: float = 600  # for running responses after SIGTERM
    # Limits of memory: `make bench` measures that they stay far below the pod's 512 MiB.
    connections: int = 256
    header_bytes: int = 4096  # of a header
    headers: int = 32
    body_bytes: int = 64 * 2**20  # of a body, which may have pictures
    bodies_bytes: int = 96 * 2**20  # of all bodies in memory
    # Ollama needs 170 times the size of a text to split it into tokens (0.24, measured), while it
    # plans 2 GiB for its own process.
    text_bytes: int = 2 * 2**20  # of a body without its pictures
    texts_bytes: int = 8 * 2**20  # of all texts that Ollama has not begun to answer
    other_bytes: int = 2**16  # of a body where no model runs, which is not parsed
    blob_bytes: int = 256 * 2**30  # of a model file, which is streamed
    line_bytes: int = 2**16  # of a response that is parsed
    idle_seconds: float = (
        20  # until the next head is complete; Open WebUI keeps connections for 15 s
    )
    client_seconds: float = 60  # until a body is complete, or more of a response is read
    # Shorter loads are not recorded: a loaded model has some ms of scheduling.
    load_seconds: float = 0.25

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> "Settings":
        """Parse the variables that begin with `GATEWAY_`; raises ValueError."""
        known: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith("GATEWAY_"):
                continue
            if (name := variable.removeprefix("GATEWAY_").lower()) not in known:
                raise ValueError(f"{variable}: unknown setting")
            try:
                values[name] = known[name](text)
            except ValueError as error:
                raise ValueError(f"{variable}: {error}") from error
        settings = cls(**values)
        settings.bytes_read()
        return settings

    def bytes_read(self) -> dict[str, float]:
        """Return `read_bytes` by model; raises ValueError."""
        try:
            pairs = (pair.split("=") for pair in self.read_bytes.split(",") if pair)
            return {canonical(name): float(size) for name, size in pairs}
        except ValueError as error:
            raise ValueError(f"GATEWAY_READ_BYTES: {error}") from error
