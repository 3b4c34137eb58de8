"""A smaller catalogue: the items that were chosen most often, and what was chosen among them."""

from __future__ import annotations

from dataclasses import replace

from holdfast._errors import BadInput
from holdfast.items.catalogue import SPLITS, Catalogue, Interaction, popularity


def subset(catalogue: Catalogue, items: int) -> Catalogue:
    """The `items` that training chose most often, and the interactions whose target is one of them.

    Histories keep what is left of them, and a row without history is dropped; tokens stay those of the items that
    are left. Nothing of validation or test decides what stays. Raises BadInput for fewer than two items.
    """
    if items < 2:
        raise BadInput(f"A catalogue of {items} items has nothing to choose from. Keep at least 2.")
    counts = popularity(catalogue.split("train"))
    order = {item: place for place, item in enumerate(catalogue.items)}
    kept = set(sorted(catalogue.items, key=lambda item: (-counts[item], order[item]))[:items])
    return replace(
        catalogue,
        items={item: about for item, about in catalogue.items.items() if item in kept},
        tokens={item: tokens for item, tokens in catalogue.tokens.items() if item in kept},
        splits={name: _among(catalogue.splits[name], kept) for name in SPLITS if name in catalogue.splits},
        source=f"{catalogue.source}, its {len(kept)} most chosen items",
    )


def _among(rows: tuple[Interaction, ...], kept: set[str]) -> tuple[Interaction, ...]:
    shorter = (replace(row, history=tuple(item for item in row.history if item in kept)) for row in rows)
    return tuple(row for row in shorter if row.history and row.target in kept)
