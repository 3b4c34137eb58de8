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
from holdfast.recipe.identifying import build_ids, inspected
from holdfast.recipe.identifying_table import render_catalogue, render_ids
from holdfast.recipe.loading import load, shipped, values
from holdfast.recipe.planning import plan, render_run_plan
from holdfast.recipe.ranking import check_recommends, evaluate_items, write_recommendations
from holdfast.recipe.ranking_table import render_ranking, render_recommended
from holdfast.recipe.rates import find_rates, rates_told
from holdfast.recipe.recommender import open_recommender
from holdfast.recipe.recommending import of_items, of_titles, of_user, recommend_items
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
    "build_ids",
    "check_folder",
    "check_recommends",
    "comparisons",
    "evaluate_items",
    "find_rates",
    "grid",
    "inspected",
    "load",
    "numbers",
    "of_items",
    "of_titles",
    "of_user",
    "open_recommender",
    "plan",
    "rates_told",
    "recommend_items",
    "render_advice",
    "render_baseline",
    "render_catalogue",
    "render_comparison",
    "render_comparisons",
    "render_grid",
    "render_ids",
    "render_ranking",
    "render_recommended",
    "render_run_plan",
    "render_scores",
    "render_weighed",
    "run",
    "score",
    "shipped",
    "values",
    "weigh",
    "write_evaluation",
    "write_recommendations",
]
