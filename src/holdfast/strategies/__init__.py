"""How may it move: one update strategy per file, each a rule."""

from holdfast.strategies import frozen

__all__ = ["frozen"]
