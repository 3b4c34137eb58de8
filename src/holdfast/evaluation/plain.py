"""Plain values as JSON files, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(value: Any, target: Path) -> None:
    """Write plain values as JSON, whole or not at all; figures that are not finite become null."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.write_text(json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, target)


def finite(value: Any) -> Any:
    """The value with None for each float that JSON has no way to write."""
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
