"""Stack files for tests: one with every key, and how to change one key of a stack file."""

import copy
from collections.abc import Iterator
from typing import Any

from harness import gpu_config, on_node, stack_config

BASE = "llama3.2:3b"
BACKUP = {"volume": {"path": "/mnt/backup/x", "size": "1Gi"}}


def every_key() -> dict[str, Any]:
    """Return a stack with every key but `trusted_email_header`, which excludes an address."""
    raw = gpu_config()
    variant = {"name": "mine:3b", "base": BASE, "context": 4096, "system": "s", "template": "t"}
    parameters = {"temperature": 0.5, "top_k": 3, "stop": ["END"]}
    model = {"name": "codellama:7b", "digest": "0" * 64, "keep_alive": "2h"}
    raw |= {"protect": True, "copies_kept": True, "notifySecret": "topic"}
    raw["network"]["metallb"] = "addon"
    raw["ollama"] |= {
        "models": [BASE, model, variant | {"parameters": parameters}, "some:instruct"],
        "memory": {"request": "40Gi", "limit": "48Gi"},
        "image": "ollama/ollama:0.40.16",
        "gateway_image": "example.org/gateway:v1.2.3",
        "cpu": 8.0,
        "context_length": 4096,
        "parallel": 2,
        "kv_cache": "q8_0",
        "loaded_models": 3,
        "prompt_cache": "1Gi",
        "keep_alive": "1h",
        "model_sizes": {"some:instruct": "4Gi"},
        "dry_run": True,
        "refreshed": "2026-12-01",
        "node": "evo4t",
    }
    raw["webui"] |= {
        "origins": ["evo4t.lan", "https://chat.example.org"],
        "embedding_model": "nomic-embed-text:v1.5",
        "image": "open-webui:v0.12.4",
        "cpu": 1.0,
        "node": "evo4t",
        "backup": {**BACKUP, "hours": 12, "keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0}
        | {"image": "restic/restic:0.19.1"},
    }
    raw["observability"] |= {
        "chart_version": "88.5.3",
        "label_users": True,
        "runbook": "https://example.org/runbook",
        "node": "evo4t",
        "notify": {
            "ntfy": "https://ntfy.sh",
            "heartbeat": "https://hc-ping.com/0",
            "timezone": "Europe/Berlin",
        },
    }
    return raw


def changed(path: str, value: object, raw: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a stack with the key at `path` set to `value`; `...` removes the key."""
    raw = copy.deepcopy(stack_config("home") if raw is None else raw)
    *above, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    section: Any = raw
    for key in above:
        section = section[key]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    several = isinstance(raw.get("nodes"), dict) and len(raw["nodes"]) > 1
    return on_node(raw) if several else raw


def paths(value: object, above: str = "") -> Iterator[tuple[str, object]]:
    """Yield every key and list item with its value, by the path that `changed` takes."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for step, item in inner:
        path = f"{above}/{step}" if above else str(step)
        yield path, item
        if isinstance(item, dict | list):
            yield from paths(item, path)
