"""Models by name on suites: the base once, then each tuned one beside it, and what is written about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.table import Table
from rich.text import Text as Words
from torch import nn

from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import CONFIG, Base
from holdfast.data.rows import Rows, encode, tokens
from holdfast.evaluation.change import interval
from holdfast.evaluation.comparison import Baseline, Comparison, baseline, compare
from holdfast.evaluation.plain import write_json
from holdfast.evaluation.report.headline import SPACE
from holdfast.evaluation.suites import Suite, load_suite, load_suites, unguarded

EVALUATION = "evaluation.json"
MERGED = "merged"
"""The folder of the plain model in an export that has an adapter too."""

WHOLE, SHOWN = 2**31, 60
"""Tokens of a row in which tokenizers are compared, none of which is cut; characters of a text that an error shows."""

SHORT = {"nats per token": "nats/token", "bits per character": "bits/char."}
TONES = {"forgot": "bold red", "kept": "green", "improved": "green", "undecided": "yellow"}


def comparisons(
    base: str | Path,
    tuned: Sequence[str | Path],
    suites: Sequence[str | Path | Mapping[str, Any]],
    *,
    learnt: Sequence[str | Path | Mapping[str, Any]] = (),
    noise: bool = True,
    drift: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Comparison]:
    """Each tuned model beside the base on the same suites; one model is in memory at a time.

    Models are bases, folders of runs or of their `final/` or checkpoints, adapters or Hub ids; `learnt` are suites of
    what was trained for. Raises BadInput where a metric would compare tokens with other tokens: where the tokenizers
    make other tokens of a text that is measured by the token. Tokens that no such text has may differ.
    """
    asked = chosen(suites, learnt)
    if not asked:
        raise BadInput("There is no suite to evaluate on. Name one, such as `--suite all`; see `holdfast suites list`.")
    known, read, vocabulary = _known(base, asked, noise, drift, say)
    for name in tuned:
        say(f"loading {name}")
        model = opened(name)
        if model.tokenizer.get_vocab() != vocabulary:
            _check_drift(known, model, f"{name} and {base}")
            _check_tokens(known, asked, read, model, f"{name} and {base}")
        yield compare(known, replace(model, name=str(name)), asked, say=say)


def alone(
    model: str | Path,
    suites: Sequence[str | Path | Mapping[str, Any]],
    learnt: Sequence[str | Path | Mapping[str, Any]] = (),
    *,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Suite], Baseline]:
    """One model on suites, without another to compare it with."""
    asked = chosen(suites, learnt)
    say(f"loading {model}")
    return asked, baseline(opened(model), asked, noise=False, drift=False, say=say)


def render_baseline(suites: Sequence[Suite], found: Baseline) -> Table:
    """What a model does on suites as a table for the terminal; what it would score by guessing stands beside."""
    table = Table("suite")
    for column in ("n", "figure", "95 %", "chance"):
        table.add_column(column, justify="right")
    for suite in suites:
        scored = found.scores[suite.name]
        figure = interval(scored)
        chance = "" if suite.chance is None else f"{suite.chance:.3f}"
        cells = (f"{figure.n:,}", f"{figure.mean:.3f}", f"[{figure.low:.3f}, {figure.high:.3f}]", chance)
        table.add_row(Words(f"{suite.name}\n{scored.unit}"), *map(Words, cells))
    return table


def chosen(
    suites: Sequence[str | Path | Mapping[str, Any]], learnt: Sequence[str | Path | Mapping[str, Any]] = ()
) -> list[Suite]:
    """The suites to evaluate on; those of what was trained for are `learnt`, whatever they say themselves."""
    return load_suites([*suites, *(_learnt(load_suite(suite)) for suite in learnt)])


def model_folder(name: str | Path) -> str | Path:
    """The model that a name stands for: of a run's folder the one that it left, of an export in two forms the whole."""
    place = Path(name)
    if (place / "final").is_dir():
        return place / "final"
    return place / MERGED if (place / MERGED / CONFIG).is_file() and not any(place.glob("*.safetensors")) else name


def write_evaluation(found: Comparison, folder: str | Path) -> Path:
    """Write a comparison as `evaluation.json`, where reports look for it; returns the file."""
    target = Path(folder) / EVALUATION
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(found.told(), target)
    return target


def render_comparison(found: Comparison) -> Table:
    """The suites before and after as a table for the terminal, with the guide's scores below."""
    table = Table()
    table.add_column("suite", no_wrap=True, overflow="fold")
    for column in ("n", "before", "after", "worse by", "lost, gained", "verdict"):
        table.add_column(column, justify="right")
    for suite in found.suites:
        change, verdict = found.changes[suite.name], found.verdicts[suite.name]
        flips = "" if change.lost is None else f"{change.lost}, {change.gained}"
        needs = f"\nneeds {change.needs:,}" if verdict == "undecided" and change.needs else ""
        cells = (
            f"{change.worse.n:,}",
            f"{change.before.mean:.3f}",
            f"{change.after.mean:.3f}",
            f"{change.worse.mean:+.3f}\n[{change.worse.low:+.3f}, {change.worse.high:+.3f}]",
            flips,
        )
        about = f"{suite.settings.role}, {SHORT.get(unit := found.before[suite.name].unit, unit)}"
        judged = found.before[suite.name].higher is not None
        known = verdict or ("at chance" if judged else "")
        said = Words(f"{known}{needs}", style=TONES.get(known, "dim"))
        table.add_row(Words(f"{suite.name}\n{about}"), *map(Words, cells), said)
    table.caption = Words(_summary(found))
    return table


def render_comparisons(found: Sequence[Comparison]) -> Table:
    """Several models beside one base: the guide's scores, verdicts counted, and which is best."""
    scored = [one for one in found if math.isfinite(one.scores["stability_efficiency_score"])]
    learnt = any(suite.settings.role == "learnt" for one in found for suite in one.suites)
    best = max(scored, key=lambda one: one.scores["stability_efficiency_score"], default=None) if learnt else None
    table = Table()
    table.add_column("model", overflow="fold", min_width=16)
    for column in ("forgetting", "gain", "balance", "stability × efficiency", "success", "forgot", "kept"):
        table.add_column(column, justify="right")
    for one in found:
        scores, verdicts = one.scores, list(one.verdicts.values())
        cells = (
            f"{100 * scores['signed_overall_forgetting']:+.1f}{SPACE}%",
            f"{100 * scores['overall_improvement']:+.1f}{SPACE}%" if learnt else "–",
            f"{scores['balance_score']:.3f}",
            f"{scores['stability_efficiency_score']:.3f}{', best' if one is best else ''}",
            "yes" if scores["is_successful"] else "no",
            f"{verdicts.count('forgot')}",
            f"{verdicts.count('kept') + verdicts.count('improved')}",
        )
        table.add_row(Words(one.model), *map(Words, cells))
    table.caption = Words(f"against {found[0].base}; scores by the guide's formulas, verdicts by their intervals")
    return table


def _known(
    base: str | Path, suites: Sequence[Suite], noise: bool, drift: bool, say: Callable[[str], None]
) -> tuple[Baseline, dict[str, list[Rows]], dict[str, int]]:
    """What the base did, how it read texts that are counted by token, and its vocabulary; the base is let go."""
    say(f"loading {base}")
    model = opened(base)
    known = baseline(model, suites, noise=noise, drift=drift, say=say)
    read = {suite.name: _read(suite, model) for suite in suites if suite.name in _by_token(known)}
    return known, read, model.tokenizer.get_vocab()


def opened(name: str | Path) -> Base:
    """A model by a name that the command line takes; where there is something faster than the processor: there."""
    base = load_adapted(model_folder(name))
    module: nn.Module = base.model
    module.to(PartialState().device)
    return base


def _read(suite: Suite, base: Base) -> list[Rows]:
    """The rows of each example as a model's tokenizer makes them; none where a harness reads them."""
    if suite.settings.kind == "lm_eval":
        return []
    return [encode(record, base.tokenizer, length=WHOLE)[0] for record in suite.asked(base)]


def _check_tokens(
    known: Baseline, suites: Sequence[Suite], read: Mapping[str, list[Rows]], model: Base, names: str
) -> None:
    """Raise BadInput for the first text that is counted by token and that the model reads as other tokens."""
    counted = _by_token(known)
    for suite in (suite for suite in suites if suite.name in counted):
        pairs = zip(read[suite.name], _read(suite, model), strict=True)
        other = next((i for i, (before, after) in enumerate(pairs) if before != after), None)
        if other is None and suite.settings.kind != "lm_eval":
            continue
        text = "" if other is None else f", and read {' '.join(suite.shown(other))[:SHOWN]!r} as other tokens"
        raise BadInput(
            f"{names} have different tokenizers{text}, but {suite.name} counts nats per token. Use the metric "
            "bits_per_character."
        )


def _check_drift(known: Baseline, model: Base, names: str) -> None:
    """Raise BadInput where the model would read a base's answers, or the prompts to them, otherwise."""
    for said in (said for said in (known.fixed, known.new) if said is not None):
        before, after = said.tokenizer, model.tokenizer
        used = sorted({i for row in said.rows for i in row["input_ids"]})
        other = next((p.prompt for p in said.prompts if tokens(before, p.prompt) != tokens(after, p.prompt)), None)
        if other is not None or before.convert_ids_to_tokens(used) != after.convert_ids_to_tokens(used):
            text = "" if other is None else f", and read {other[:SHOWN]!r} as other tokens"
            raise BadInput(f"{names} have different tokenizers{text}: drift cannot be measured. Leave it: --no-drift.")


def _by_token(known: Baseline) -> list[str]:
    return [name for name, scored in known.scores.items() if scored.unit in ("nats per token", "perplexity")]


def _learnt(suite: Suite) -> Suite:
    return Suite(suite.name, suite.settings.model_copy(update={"role": "learnt"}), suite.place, suite.given)


def _summary(found: Comparison) -> str:
    scores = found.scores
    drift = "".join(f" · drift on {name} {kl.mean:.3f} nats per token" for name, kl in found.output.items())
    gaps = unguarded([suite for suite in found.suites if suite.settings.role == "guarded"])
    missing = f"\nNo suite guards: {', '.join(gaps)}." if gaps else ""
    return (
        f"forgetting {100 * scores['signed_overall_forgetting']:+.1f} % · improvement "
        f"{100 * scores['overall_improvement']:+.1f} % · balance {scores['balance_score']:.3f}{drift}{missing}"
    )
