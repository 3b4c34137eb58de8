"""Methods with their settings, by a name that says how much they may change."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"name": "lora", "rank": 4, "alpha": 8},
    "medium": {"name": "lora", "rank": 8, "alpha": 16},
    "large": {"name": "lora", "rank": 16, "alpha": 32},
    "xlarge": {"name": "lora", "rank": 32, "alpha": 64},
    "forgets-least": {"name": "adalora", "rank": 8, "targets": "mlp"},  # see benchmarks/methods.py
}
"""What `method: {preset: …}` stands for; what a recipe says beside it wins."""
