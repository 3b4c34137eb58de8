"""Task after task: a recipe with `tasks`, carried out, scored after each task, and resumed wherever it stopped."""

from holdfast.sequence.planning import render_sequence_plan
from holdfast.sequence.running import Outcome, run
from holdfast.sequence.schema import SequenceRecipe, Task, load

__all__ = ["Outcome", "SequenceRecipe", "Task", "load", "render_sequence_plan", "run"]
