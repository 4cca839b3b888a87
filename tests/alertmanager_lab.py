"""Alertmanager as a process, and a configuration of each way for alerts to leave the cluster."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml
from waiting import eventually

MAIL = {"to": "me@example.com", "sender": "box@example.com", "smarthost": "smtp.example.com:587"}
WAYS: list[tuple[dict[str, Any], str]] = [
    ({"ntfy": "https://ntfy.sh"}, "a-topic-that-nobody-guesses"),
    ({"ntfy": "https://ntfy.example.org", "timezone": "Europe/Berlin"}, "a-topic tk_abc123"),
    ({"pushover": "u" * 30, "heartbeat": "https://hc-ping.com/0-0"}, "a" * 30),
    ({"email": MAIL}, "pass word: {{ x }} #"),
    ({"telegram": -100123}, "123456:ABC-def_1"),
    ({"webhook": "text"}, "https://hooks.example.org/T0/B0?x=1"),
    ({"webhook": "content", "heartbeat": "http://10.0.0.1/up"}, "https://discord.example/api/1"),
]


@contextmanager
def running(program: Path, folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Run Alertmanager with this configuration, and give its URL."""
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    log = folder / "log"
    with log.open("w") as said:
        process = subprocess.Popen([program, *flags], stdout=said, stderr=said)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"http://{address}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    try:
        assert eventually(ready)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)
