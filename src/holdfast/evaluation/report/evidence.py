"""The sections of the page that give the evidence as it is: samples, and each certificate in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.evaluation.report.headline import (
    NOTHING,
    Cell,
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
from holdfast.evaluation.report.page import (
    absent,
    cell,
    escape,
    listing,
    note,
    own,
    row_name,
    run_name,
    section,
    table,
)
from holdfast.evaluation.report.records import Entry, RunRecord, number


def samples_section(runs: Sequence[RunRecord]) -> str:
    """What the base and the runs answer to the same prompts, side by side."""
    prompts = dict.fromkeys((str(s.get("about")), str(s.get("prompt"))) for run in runs for s in run.samples)
    parts = []
    for about, said in (("new", "On the new text"), ("old", "On the old text")):
        found = [_sample(runs, about, prompt) for kind, prompt in prompts if kind == about]
        parts += [f"<h3>{said}</h3>", *found] if found else []
    if not prompts and not any("samples.json" in run.missing for run in runs):
        parts.append(note("The runs have written no samples."))
    return section("Samples", *parts, *absent(runs, "samples.json"))


def _sample(runs: Sequence[RunRecord], about: str, prompt: str) -> str:
    """One prompt with the answers of the base and of every run that has one."""
    asked = [(i, run, _asked(run, about, prompt)) for i, run in enumerate(runs)]
    answers = [_answer(own(i), run.name, sample.get("tuned")) for i, run, sample in asked if sample is not None]
    base = next(sample.get("base") for _, _, sample in asked if sample is not None)
    shown = _answer("", "base", base) + "".join(answers)
    before = f'<p class="prompt"><span class="quiet">Prompt</span> {escape(prompt)}</p>'
    return f'<div class="sample">{before}<div class="answers">{shown}</div></div>'


def _asked(run: RunRecord, about: str, prompt: str) -> Entry | None:
    wanted = (about, prompt)
    return next((s for s in run.samples if (str(s.get("about")), str(s.get("prompt"))) == wanted), None)


def _answer(colour: str, name: str, text: object) -> str:
    said = escape(NOTHING if text is None else str(text).strip())
    return f'<div class="answer" {colour}><span class="run">{escape(name)}</span><p>{said}</p></div>'


def certificates_section(runs: Sequence[RunRecord]) -> str:
    """Every certificate with its texts, figures and circumstances, and the recipe that led to it."""
    return section("The certificates in full", *(part for i, run in enumerate(runs) for part in _certificate(i, run)))


def _certificate(place: int, run: RunRecord) -> list[str]:
    parts = [run_name(place, run.name)]
    if run.certificate is None:
        parts.append(note(run.missing.get("certificate.json", "This run has no certificate.")))
    else:
        parts += [_kept(run), _learnt(run), listing(_circumstances(run.certificate))]
    if run.recipe is None:
        return [*parts, note(run.missing.get("recipe.yaml", "This run has no recipe."))]
    return [*parts, f"<details><summary>Resolved recipe</summary><pre>{escape(run.recipe)}</pre></details>"]


def _kept(run: RunRecord) -> str:
    entries = run.audited("kept")
    if not entries:
        return note("No guarded text was audited.")
    columns = ("kept text", "documents", "tokens", "rise, nats per token", "perplexity ratio", "budget", "verdict")
    return table(columns, [[_text(entry), *map(cell, _kept_cells(entry))] for entry in entries])


def _kept_cells(entry: Entry) -> list[Cell]:
    verdict, needs = str(entry.get("verdict") or ""), number(entry, "needs")
    return [
        *_size(entry),
        bounded(number(entry, "rise"), number(entry, "low"), number(entry, "high"), number(entry, "upper"), nats),
        Cell(precise(number(entry, "ratio")), (f"bound {precise(number(entry, 'ratio_upper'))}",)),
        Cell(allowance(number(entry, "budget"))),
        Cell(marked(verdict), (f"needs {whole(needs)}",) if math.isfinite(needs) else (), verdict or None),
    ]


def _learnt(run: RunRecord) -> str:
    entries = run.audited("learnt")
    if not entries:
        return note("No new text was audited.")
    columns = ("learnt text", "documents", "tokens", "loss of the base", "loss", "gain, nats per token", "perplexity")
    return table(columns, [[_text(entry), *map(cell, _learnt_cells(entry))] for entry in entries])


def _learnt_cells(entry: Entry) -> list[Cell]:
    gain = between(number(entry, "low"), number(entry, "high"), nats)
    perplexity = between(number(entry, "perplexity_low"), number(entry, "perplexity_high"), plain)
    return [
        *_size(entry),
        Cell(precise(number(entry, "base_loss"))),
        Cell(precise(number(entry, "loss"))),
        Cell(nats(number(entry, "gain")), (gain,)),
        Cell(plain(number(entry, "perplexity")), (perplexity,)),
    ]


def _text(entry: Entry) -> str:
    source = entry.get("source")
    return row_name(entry.get("text", NOTHING), f"source: {source}" if source else "")


def _size(entry: Entry) -> list[Cell]:
    return [Cell(whole(number(entry, "n"))), Cell(whole(number(entry, "tokens")))]


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
        "versions": ", ".join(f"{n} {v}" for n, v in versions.items()) if isinstance(versions, Mapping) else None,
        "date": certificate.get("date"),
    }
    return {name: NOTHING if value is None else value for name, value in said.items()}
