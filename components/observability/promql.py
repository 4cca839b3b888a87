"""PromQL of dashboards and alerts."""

import json
import re
from collections.abc import Iterable


def any_of(values: Iterable[str]) -> str:
    """Return the regular expression that matches these values, escaped for a quoted string."""
    expression = "|".join(re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value) for value in values)
    return json.dumps(expression, ensure_ascii=False)[1:-1]
