"""The embedded base model, its tokenizer and the texts that the demo and the tests read."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODEL: Path = _HERE / "model"
"""Folder of a Llama of 260,032 weights trained on children's stories, with its tokenizer."""

TEXTS: dict[str, Path] = {"tiny/shakespeare": _HERE / "shakespeare", "tiny/stories": _HERE / "stories"}
"""Folder of each embedded text by the name that recipes use."""
