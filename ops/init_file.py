"""The text of a stack file: new keys in it, its comments kept."""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from components import CHART_VALUES
from config import Settings, read, requested
from config.errors import PREFIX, SECRET
from config.stack_file import project_keys

TEMPLATE = """\
# yaml-language-server: $schema=config/schema.json
# Every key: docs/settings.md
config:
  homelab:context:
  homelab:nodes: {}                 # as `kubectl get nodes` names them
  homelab:network:
    lan:
    pool:                           # outside the router's DHCP range
    metallb:
  homelab:ollama:
    models: []                      # a new chat starts with the first
    volume: {}
  homelab:webui:
    lan_address:
    admin_email:
    memory: {request: 1Gi, limit: 4Gi}
    volume: {}
  homelab:observability:
    lan_address:
    volume: {}
"""
RESERVED = requested(CHART_VALUES)


def merge(text: str, keys: Mapping[str, Any]) -> str:
    """Return the stack file `text` with these keys; its comments and other settings stay.

    Raises ValueError if it is no YAML object.
    """
    parser = YAML()
    parser.width = 120
    parser.indent(mapping=2, sequence=4, offset=2)
    document = parser.load(text) or {}
    if not isinstance(document, dict):
        raise ValueError("stack file: got no object, want one with the key config")
    if not document.get("config"):
        # `pulumi stack init` before `make init` writes only the salt.
        others = {key: value for key, value in document.items() if key != "config"}
        document = parser.load(TEMPLATE)
        document.update(others)
    prefixed = {f"{PREFIX}{key}": value for key, value in keys.items()}
    _update(document["config"], {**document["config"], **prefixed})
    output = io.StringIO()
    parser.dump(document, output)
    return output.getvalue()


def _update(document: Any, values: Mapping[str, Any]) -> None:
    """Change `document` to `values`, in place, so that the comments of equal values stay."""
    for key in [key for key in document if key not in values]:
        del document[key]
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _update(document[key], value)
        elif document.get(key) != value:
            document[key] = value


def check(text: str) -> Settings:
    """Return the settings of a stack file's text; raises SettingsError, as `validate`."""
    return validate(project_keys(YAML(typ="safe").load(text)["config"]))


def validate(keys: Mapping[str, Any]) -> Settings:
    """Return the settings of these keys; raises SettingsError, a line for each invalid key.

    The secret of `observability.notify` may be missing, because only the CLI can encrypt it.
    """
    secret = {"notifySecret": SECRET} if (keys.get("observability") or {}).get("notify") else {}
    return read({**secret, **keys}, RESERVED)
