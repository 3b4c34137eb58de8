"""The sections that give the evidence as it is: samples, and each certificate in full."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rich.filesize import decimal

from holdfast.evaluation.report.content import (
    Answers,
    Block,
    Cell,
    Folded,
    Heading,
    Listing,
    Note,
    Section,
    Source,
    Table,
)
from holdfast.evaluation.report.headline import (
    NOTHING,
    allowance,
    between,
    bounded,
    marked,
    nats,
    plain,
    precise,
    seconds,
    whole,
)
from holdfast.evaluation.report.records import Entry, RunRecord, number
from holdfast.evaluation.report.sections import absent
from holdfast.evaluation.report.watchfulness import monitoring


def samples_section(runs: Sequence[RunRecord]) -> Section:
    """What the base and the runs answer to the same prompts, side by side."""
    prompts = dict.fromkeys((str(s.get("about")), str(s.get("prompt"))) for run in runs for s in run.samples)
    parts: list[Block] = []
    for about, said in (("new", "On the new text"), ("old", "On the old text")):
        found = [_sample(runs, about, prompt) for kind, prompt in prompts if kind == about]
        parts += [Heading(said), *found] if found else []
    if not prompts and not any("samples.json" in run.missing for run in runs):
        parts.append(Note("The runs have written no samples."))
    samples = {run.name: run.samples for run in runs if run.samples}
    return Section("Samples", [*parts, *absent(runs, "samples.json")], "samples", samples)


def _sample(runs: Sequence[RunRecord], about: str, prompt: str) -> Answers:
    """One prompt with the answers of the base and of every run that has one."""
    asked = [(i, run, _asked(run, about, prompt)) for i, run in enumerate(runs)]
    answers = [(i, run.name, _answer(sample.get("tuned"))) for i, run, sample in asked if sample is not None]
    base = next(sample.get("base") for _, _, sample in asked if sample is not None)
    return Answers(prompt, [(None, "base", _answer(base)), *answers])


def _asked(run: RunRecord, about: str, prompt: str) -> Entry | None:
    wanted = (about, prompt)
    return next((s for s in run.samples if (str(s.get("about")), str(s.get("prompt"))) == wanted), None)


def _answer(text: object) -> str:
    return NOTHING if text is None else str(text).strip()


def certificates_section(runs: Sequence[RunRecord]) -> Section:
    """Every certificate with its texts, figures and circumstances, and the recipe that led to it."""
    parts = [part for i, run in enumerate(runs) for part in _certificate(i, run)]
    certificates = {run.name: run.certificate for run in runs}
    return Section("The certificates in full", parts, "certificates", certificates)


def _certificate(place: int, run: RunRecord) -> list[Block]:
    parts: list[Block] = [Heading(run.name, place)]
    if run.certificate is None:
        parts.append(Note(run.missing.get("certificate.json", "This run has no certificate.")))
    else:
        parts += [_kept(run), _learnt(run), Listing(_circumstances(run.certificate))]
    if run.recipe is None:
        return [*parts, Note(run.missing.get("recipe.yaml", "This run has no recipe."))]
    return [*parts, Folded("Resolved recipe", [Source(re.sub(r"(webhook: ).+", r"\1(not shown)", run.recipe))])]


def _kept(run: RunRecord) -> Block:
    entries = run.audited("kept")
    if not entries:
        return Note("No guarded text was audited.")
    columns = ("kept text", "documents", "tokens", "rise, nats per token", "perplexity ratio", "budget", "verdict")
    return Table(columns, [[_text(entry), *_kept_cells(entry)] for entry in entries])


def _kept_cells(entry: Entry) -> list[Cell]:
    verdict, needs = str(entry.get("verdict") or ""), number(entry, "needs")
    ratio, budget = number(entry, "ratio"), number(entry, "budget")
    return [
        *_size(entry),
        bounded(number(entry, "rise"), number(entry, "low"), number(entry, "high"), number(entry, "upper"), nats),
        Cell(precise(ratio), (f"bound {precise(number(entry, 'ratio_upper'))}",), exact=ratio),
        Cell(allowance(budget), exact=budget),
        Cell(marked(verdict), (f"needs {whole(needs)}",) if math.isfinite(needs) else (), verdict or None),
    ]


def _learnt(run: RunRecord) -> Block:
    entries = run.audited("learnt")
    if not entries:
        return Note("No new text was audited.")
    columns = ("learnt text", "documents", "tokens", "loss of the base", "loss", "gain, nats per token", "perplexity")
    return Table(columns, [[_text(entry), *_learnt_cells(entry)] for entry in entries])


def _learnt_cells(entry: Entry) -> list[Cell]:
    gain = between(number(entry, "low"), number(entry, "high"), nats)
    perplexity = between(number(entry, "perplexity_low"), number(entry, "perplexity_high"), plain)
    known = {key: number(entry, key) for key in ("base_loss", "loss", "gain", "perplexity")}
    return [
        *_size(entry),
        Cell(precise(known["base_loss"]), exact=known["base_loss"]),
        Cell(precise(known["loss"]), exact=known["loss"]),
        Cell(nats(known["gain"]), (gain,), exact=known["gain"]),
        Cell(plain(known["perplexity"]), (perplexity,), exact=known["perplexity"]),
    ]


def _text(entry: Entry) -> Cell:
    source = entry.get("source")
    return Cell(str(entry.get("text", NOTHING)), (f"source: {source}",) if source else ())


def _size(entry: Entry) -> list[Cell]:
    return [Cell(whole(number(entry, key)), exact=number(entry, key)) for key in ("n", "tokens")]


def _memory(certificate: Entry) -> str | None:
    """The peak while training, and what was held before it, where the run could tell."""
    told = certificate.get("memory")
    told = told if isinstance(told, Mapping) else {}
    before, peak = number(told, "before"), number(told, "peak")
    if math.isnan(before + peak):
        return None
    return f"{decimal(int(peak))} at the peak, {decimal(int(before))} before training (of the {told.get('of')})"


def _circumstances(certificate: Entry) -> dict[str, object]:
    """Everything that a certificate says beside its figures."""
    base = certificate.get("base")
    base = base if isinstance(base, Mapping) else {}
    versions = certificate.get("versions")
    said = {
        "verdict": certificate.get("verdict"),
        "base model": base.get("name"),
        "digest of the base": base.get("digest"),
        "method": certificate.get("method"),
        "seed": certificate.get("seed"),
        "steps": certificate.get("steps"),
        "stopped early": certificate.get("stopped") or "no",
        "time": seconds(number(certificate, "seconds")),
        "memory": _memory(certificate),
        "watching": monitoring(certificate) or None,
        "versions": ", ".join(f"{n} {v}" for n, v in versions.items()) if isinstance(versions, Mapping) else None,
        "date": certificate.get("date"),
    }
    return {name: NOTHING if value is None else value for name, value in said.items()}
