"""Which recipe? A search over methods, places, sizes and strengths for what learns most inside a budget."""

from holdfast._errors import MissingExtra

try:
    import optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtra("The search", "search") from error

from holdfast.search.outcome import Comparison, Found
from holdfast.search.searching import search
from holdfast.search.space import Narrowed, narrowed, read_space
from holdfast.search.words import headline, render_found

__all__ = ["Comparison", "Found", "Narrowed", "headline", "narrowed", "read_space", "render_found", "search"]
