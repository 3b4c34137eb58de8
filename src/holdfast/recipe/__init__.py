"""YAML to objects and back; the only room that knows every other."""

from holdfast.recipe.advising import advise, render_advice
from holdfast.recipe.comparing import (
    alone,
    comparisons,
    render_baseline,
    render_comparison,
    render_comparisons,
    write_evaluation,
)
from holdfast.recipe.folder import check_folder
from holdfast.recipe.loading import load, shipped, values
from holdfast.recipe.planning import plan, render_run_plan
from holdfast.recipe.rates import find_rates, rates_told
from holdfast.recipe.running import Result, run
from holdfast.recipe.schema import Recipe
from holdfast.recipe.scoring import render_scores, score
from holdfast.recipe.strengths import grid, numbers, render_grid
from holdfast.recipe.weighing import render_weighed, weigh

__all__ = [
    "Recipe",
    "Result",
    "advise",
    "alone",
    "check_folder",
    "comparisons",
    "find_rates",
    "grid",
    "load",
    "numbers",
    "plan",
    "rates_told",
    "render_advice",
    "render_baseline",
    "render_comparison",
    "render_comparisons",
    "render_grid",
    "render_run_plan",
    "render_scores",
    "render_weighed",
    "run",
    "score",
    "shipped",
    "values",
    "weigh",
    "write_evaluation",
]
