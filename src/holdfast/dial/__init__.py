"""After training: the way between the model before and the model after, and the place on it that a budget allows."""

from holdfast.dial.dialling import Dialled, dial, render_dialled
from holdfast.dial.line import Line, in_turn, together

__all__ = ["Dialled", "Line", "dial", "in_turn", "render_dialled", "together"]
