"""The made-up catalogue: the same for a seed, split by time, labelled, and learnable beyond popularity."""

from __future__ import annotations

import random

import pytest

from holdfast._errors import BadInput
from holdfast.items.baselines import popular, recommended, successor
from holdfast.items.catalogue import Catalogue, popularity
from holdfast.items.made_up import HISTORY, made_up
from holdfast.items.ranking import ranked


@pytest.fixture(scope="module")
def made() -> Catalogue:
    return made_up()


def test_one_seed_makes_one_catalogue_and_moves_no_other_chance(made: Catalogue) -> None:
    random.seed(3)
    state = random.getstate()
    assert made_up() == made
    assert random.getstate() == state
    assert made_up(seed=1).splits != made.splits


def test_it_says_that_it_is_made_up(made: Catalogue) -> None:
    assert made.source == "made up by rule (seed 0, 600 users)"


def test_items_are_plausible_and_none_is_like_another(made: Catalogue) -> None:
    assert len(made.items) == len(made.by_title) == len(made.by_sid) == 336
    assert all(item.description and item.brand and len(item.categories) == 2 for item in made.items.values())
    assert made_up(users=20, identifiers=False).tokens == {}


def test_rows_are_split_by_time_about_eight_to_one_to_one(made: Catalogue) -> None:
    sizes = {name: len(rows) for name, rows in made.splits.items()}
    assert list(sizes) == ["train", "valid", "test"]
    assert 0.7 < sizes["train"] / sum(sizes.values()) < 0.9 and min(sizes.values()) > 300
    assert {len(row.history) for rows in made.splits.values() for row in rows} == set(range(1, HISTORY + 1))


def test_each_row_goes_on_where_the_row_before_of_its_user_ended(made: Catalogue) -> None:
    last: dict[str, tuple[str, ...]] = {}
    for name in ("train", "valid", "test"):
        for row in made.splits[name]:
            before = last.get(row.user)
            assert before is None or row.history == before[-HISTORY:]
            last[row.user] = (*row.history, row.target)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_followed_says_far_more_than_what_is_popular(seed: int) -> None:
    catalogue = made_up(seed=seed)
    train, test = catalogue.split("train"), catalogue.split("test")
    found = [
        ranked(test, recommended(baseline(train), test, 10), catalogue, popularity(train), ks=(1, 10))
        for baseline in (successor, popular)
    ]
    assert found[0].above(found[1], "hr@10").low > 0.3
    assert 0.02 < found[0].segments["cold"].mean() < 0.1


def test_some_users_are_needed() -> None:
    with pytest.raises(BadInput, match="at least 20"):
        made_up(users=3)
    assert all(made_up(users=20).splits.values())
