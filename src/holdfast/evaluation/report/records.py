"""Run folders as they are read back: log, certificate, samples and recipe, whatever of them is there."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput

Entry = Mapping[str, Any]
FILES = ("log.jsonl", "certificate.json", "samples.json", "recipe.yaml")
EVALUATION, RECOMMENDATIONS = "evaluation.json", "recommendations.json"
"""Written by `holdfast evaluate` and `holdfast sid evaluate`, not by a run: nobody misses them."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder tells. `missing` maps a file's name to one sentence that says why nothing is known from it."""

    name: str
    folder: Path
    log: tuple[Entry, ...] = ()
    certificate: Entry | None = None
    samples: tuple[Entry, ...] = ()
    recipe: str | None = None
    evaluation: Entry | None = None
    recommendations: Entry | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def lines(self, kind: str) -> list[Entry]:
        """The lines of the log of one kind, in the order of steps."""
        return [line for line in self.log if line["kind"] == kind]

    def texts(self, kind: str) -> list[str]:
        """Names of the texts that "learn" or "probe" lines are about, in order of appearance."""
        return list(dict.fromkeys(str(line.get("text")) for line in self.lines(kind)))

    def series(self, kind: str, text: str) -> list[Entry]:
        """One line a step about one text; where a step was looked at twice, the later look."""
        return list({line["step"]: line for line in self.lines(kind) if str(line.get("text")) == text}.values())

    def audited(self, part: str) -> list[Entry]:
        """The certificate's entries under "kept" or "learnt"; none without a certificate."""
        entries = (self.certificate or {}).get(part)
        return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []

    def suites(self) -> list[Entry]:
        """What an evaluation says about each suite."""
        entries = (self.evaluation or {}).get("suites")
        return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []

    @property
    def trained(self) -> bool:
        """Whether this is a run, and no evaluation alone."""
        return self.evaluation is None or any((self.log, self.certificate, self.samples, self.recipe, self.missing))

    def limits(self) -> dict[str, float]:
        """Budget of each guarded text in nats per token, as far as the log or the certificate names one."""
        logged = {str(line.get("text")): number(line, "budget") for line in self.lines("probe")}
        audited = {str(entry.get("text")): number(entry, "budget") for entry in self.audited("kept")}
        found = {**logged, **{text: math.log1p(budget) for text, budget in audited.items() if budget > -1}}
        return {text: limit for text, limit in found.items() if math.isfinite(limit)}

    def worst(self, entries: Iterable[Entry]) -> Entry | None:
        """Of entries with a rise in nats, the one that is furthest over its budget or least inside it."""
        limits = self.limits()
        known = [entry for entry in entries if not math.isnan(number(entry, "rise"))]
        return max(known, key=lambda e: number(e, "rise") - limits.get(str(e.get("text")), 0.0), default=None)

    @property
    def verdict(self) -> str | None:
        """ "holds", "undecided" or "broken"; None where there is no certificate or no budget was set."""
        verdict = (self.certificate or {}).get("verdict")
        return str(verdict) if verdict else None


def number(entry: Entry, key: str) -> float:
    """A figure of an entry, or NaN where it is absent or no number."""
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def percent(nats: float) -> float:
    """A loss rise in nats per token as the change of perplexity in per cent: 100 (exp(rise) - 1)."""
    return 100 * math.expm1(nats) if nats < 700 else nats + math.inf


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder, or an evaluation.json by itself; a half-written last line of the log is passed over.

    Raises BadInput where there is neither, and for a folder with none of a run's files in it.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix == ".json":
        return _evaluated(folder)
    if not folder.is_dir():
        raise BadInput(f"There is no run folder at {folder}. Give the folder that a recipe names under `output`.")
    if not any((folder / name).is_file() for name in FILES):
        if (folder / EVALUATION).is_file():
            return _evaluated(folder / EVALUATION)
        raise BadInput(f"{folder} is not a run folder: it holds none of {', '.join(FILES)}.")
    missing: dict[str, str] = {}
    certificate = _json(folder / "certificate.json", Mapping, missing)
    samples = _json(folder / "samples.json", list, missing)
    return RunRecord(
        name=folder.resolve().name,
        folder=folder,
        log=_log(folder / "log.jsonl", missing),
        certificate=certificate,
        samples=tuple(entry for entry in samples or () if isinstance(entry, Mapping)),
        recipe=_text(folder / "recipe.yaml", missing),
        evaluation=_json(folder / EVALUATION, Mapping, {}),
        recommendations=_json(folder / RECOMMENDATIONS, Mapping, {}),
        missing=missing,
    )


def _evaluated(file: Path) -> RunRecord:
    """An evaluation by itself, under the name of its model's run; raises BadInput where the file is none."""
    missing: dict[str, str] = {}
    evaluation = _json(file, Mapping, missing)
    if evaluation is None or not isinstance(evaluation.get("suites"), list):
        why = missing.get(file.name, "It has no list of suites.")
        raise BadInput(f"{file} is no evaluation that `holdfast evaluate` wrote. {why}")
    model = Path(str(evaluation.get("model") or file.stem))
    return RunRecord(model.parent.name if model.name == "final" else model.name, file.parent, evaluation=evaluation)


def read_runs(runs: Sequence[RunRecord | str | Path]) -> list[RunRecord]:
    """Records of all runs, under names that tell them apart. Raises BadInput where there are none."""
    if not runs:
        raise BadInput("There is no run to report on: give at least one run folder.")
    records = [run if isinstance(run, RunRecord) else read_run(run) for run in runs]
    for tell in (_with_parent, _with_place):
        counts = Counter(record.name for record in records)
        records = [tell(r, i) if counts[r.name] > 1 else r for i, r in enumerate(records, start=1)]
    return records


def _with_parent(record: RunRecord, place: int) -> RunRecord:
    return replace(record, name=f"{record.folder.resolve().parent.name}/{record.name}")


def _with_place(record: RunRecord, place: int) -> RunRecord:
    return replace(record, name=f"{record.name} ({place})")


def _text(file: Path, missing: dict[str, str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        missing[file.name] = f"There is no {file.name} in its folder."
    except OSError as error:
        missing[file.name] = f"{file.name} could not be read: {error.strerror}."
    return None


def _json(file: Path, kind: type, missing: dict[str, str]) -> Any:
    text = _text(file, missing)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        missing[file.name] = f"{file.name} is not valid JSON (line {error.lineno}: {error.msg})."
        return None
    if isinstance(value, dict if kind is Mapping else kind):
        return value
    missing[file.name] = f"{file.name} does not hold what a run writes there."
    return None


def _log(file: Path, missing: dict[str, str]) -> tuple[Entry, ...]:
    """Lines in the order of steps. A run that was resumed writes some steps again: the later lines replace them."""
    text = _text(file, missing)
    kept: list[Entry] = []
    for line in filter(None, map(_line, (text or "").split("\n"))):
        if kept and line["step"] < kept[-1]["step"]:
            kept = [entry for entry in kept if entry["step"] < line["step"]]
        kept.append(line)
    if text is not None and not kept:
        missing[file.name] = f"{file.name} holds no line that could be read."
    return tuple(kept)


def _line(text: str) -> Entry | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    usable = isinstance(value, dict) and isinstance(value.get("step"), int) and isinstance(value.get("kind"), str)
    return value if usable else None
