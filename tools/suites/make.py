"""Write the items that a program makes; the others stand in their item files as they were written.

    python tools/suites/make.py [FOLDER]

FOLDER is src/holdfast/suites unless another is given. The same program writes the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from context import context
from grammar import grammar
from items import Item, records
from reading import chinese, english
from reasoning import reasoning
from steps import steps
from tables import grounded, pairs, relations, senses

SUITES = Path(__file__).parents[2] / "src" / "holdfast" / "suites"

MADE: dict[str, Callable[[Random], Iterable[Item]]] = {
    "facts-en": lambda random: relations(random, "facts-en"),
    "facts-zh": lambda random: relations(random, "facts-zh", end="\n"),
    "concepts-en": lambda random: relations(random, "concepts-en"),
    "terminology-en": lambda random: relations(random, "terminology-en"),
    "confusion-en": lambda random: senses("confusion-en"),
    "hallucination-en": lambda random: grounded("hallucination-en"),
    "grammar-en": grammar,
    "grammar-zh": lambda random: pairs("grammar-zh"),
    "reasoning-en": reasoning,
    "reading-en": english,
    "reading-zh": chinese,
    "context-en": context,
    "complex-en": steps,
}


def main(folder: Path) -> None:
    """Write `items.jsonl` of every suite that is made, each from a seed of its own."""
    for name, make in MADE.items():
        random = Random(name)
        lines = [json.dumps(record, ensure_ascii=False) for record in records(make(random), random)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "items.jsonl").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SUITES)
