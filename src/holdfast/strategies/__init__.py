"""How may it move: one update strategy per file, each a rule."""

from holdfast.strategies import (
    adaptive,
    cyclic,
    frozen,
    gradual,
    incremental,
    layerwise,
    rollback,
    scaled,
    selective,
    unfreezing,
)

__all__ = [
    "adaptive",
    "cyclic",
    "frozen",
    "gradual",
    "incremental",
    "layerwise",
    "rollback",
    "scaled",
    "selective",
    "unfreezing",
]
