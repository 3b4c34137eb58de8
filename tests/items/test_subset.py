"""A smaller catalogue: decided by training alone, with nothing left that points outside."""

from __future__ import annotations

import pytest

from holdfast._errors import BadInput
from holdfast.items.catalogue import popularity
from holdfast.items.made_up import made_up
from holdfast.items.subset import subset


def test_the_items_that_training_chose_most_often_stay_with_all_that_is_among_them() -> None:
    shop = made_up(users=100)
    small = subset(shop, 40)
    counts = popularity(shop.split("train"))
    left, gone = set(small.items), set(shop.items) - set(small.items)
    assert len(left) == 40 and min(counts[i] for i in left) >= max(counts[i] for i in gone)
    assert small.tokens == {item: shop.tokens[item] for item in small.items}
    for split, rows in small.splits.items():
        assert all(row.history and {*row.history, row.target} <= left for row in rows)
        assert len(rows) <= len(shop.splits[split])
    assert list(small.items) == [item for item in shop.items if item in left] and "40 most chosen" in small.source


def test_one_item_is_no_catalogue() -> None:
    with pytest.raises(BadInput, match="at least 2"):
        subset(made_up(users=30), 1)
