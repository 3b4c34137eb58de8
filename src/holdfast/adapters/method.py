"""A training method: what of a model trains, by the name that recipes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast._registry import Registry

methods: Registry[Callable[..., Any]] = Registry("method")
"""Functions (model, *, seed, **knobs) -> model: they choose what trains, and wrap the model where they add weights."""
