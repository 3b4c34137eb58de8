"""Task after task: a recipe with `tasks`, carried out, scored after each task, and resumed wherever it stopped."""

from holdfast.sequence.planning import render_sequence_plan
from holdfast.sequence.running import Outcome, check_folder, run, texts_of
from holdfast.sequence.schema import SequenceRecipe, Task, load

__all__ = ["Outcome", "SequenceRecipe", "Task", "check_folder", "load", "render_sequence_plan", "run", "texts_of"]
