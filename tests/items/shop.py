"""A shop of six items, whose folder a test may spoil, and the published catalogue where it lies beside the project."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from holdfast.items.catalogue import Catalogue, Interaction, Item
from holdfast.items.reading import load

INDUSTRIAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rec" / "amazon_industrial"

published = pytest.mark.skipif(
    not INDUSTRIAL.exists(), reason="the published catalogue lies beside the project only where it is developed"
)


def shop(identifiers: bool = True) -> Catalogue:
    """Six items, of which two share a title (3, 4) and two a semantic ID (5, 6); 2 has four levels."""
    items = {
        "1": Item("1", 'Lily\'s "red" cup, 2"', ("A cup.", "It's red."), "Lily", ("Home, Garden",)),
        "2": Item("2", "Tom blue\\plate", ("[cut short, 'as they",), "Tom", ("table", "plate")),
        "3": Item("3", "big hat", (), "Lily", ("wear",)),
        "4": Item("4", "big hat", ("the other", ""), "", ()),
        "5": Item("5", "Käse 二 [1]", ("- ", "\n"), "Ö", ("x",)),
        "6": Item("6", "small lamp", ("light",), "Tom", ("x",)),
    }
    tokens = {
        "1": ("<a_1>", "<b_1>", "<c_1>"),
        "2": ("<a_1>", "<b_2>", "<c_1>", "<d_1>"),
        "3": ("<a_2>", "<b_1>", "<c_10>"),
        "4": ("<a_2>", "<b_1>", "<c_2>"),
        "5": ("<a_10>", "<b_1>", "<c_1>"),
        "6": ("<a_10>", "<b_1>", "<c_1>"),
    }
    splits = {
        "train": (
            Interaction("ann", ("1",), "2"),
            Interaction("ann", ("1", "2"), "3"),
            Interaction("bob", ("5",), "1"),
        ),
        "valid": (Interaction("bob", ("5", "1"), "4", preference="a hat, big"),),
        "test": (Interaction("ann", ("1", "2", "3"), "6"), Interaction("cy", ("2", "2"), "1")),
    }
    return Catalogue("shop", items, tokens if identifiers else {}, splits, "six items")


@cache
def industrial() -> Catalogue:
    return load(INDUSTRIAL)
