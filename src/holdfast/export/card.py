"""What is said about an export: the model's card, and the lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.recipe.origin import Origin
from holdfast.recipe.outcome import model_card

Told = Mapping[str, Any]


def card(told: Told, source: Origin, *, adapter: bool) -> str:
    """The card of one part: the run's own where there is one, and how the export was made and checked.

    `told` are the figures of export.json.
    """
    kind = "adapter" if adapter else "merged"
    measured = ["What stands above was measured on that model; below is how far these files lie from it."]
    sentences = [*_made(told, kind), *(measured if source.certificate is not None else []), *checks(told, kind)]
    lines = [f"* {line}" for line in sentences]
    return "\n".join([_beginning(told, source, adapter).rstrip(), "", "## Export", "", *lines, ""])


def checks(told: Told, kind: str) -> list[str]:
    """One sentence for each check of a part, with its figures."""
    again = told["parts"][kind]["reloaded"]
    reloaded = (
        f"Loaded again from these files: the largest difference of a logit is {again['largest']:.3g} "
        f"({again['positions']} positions)."
    )
    return ([] if _is_adapter(kind) else _merged(told)) + [reloaded]


def _is_adapter(kind: str) -> bool:
    """Whether a part is an adapter, which is not merged."""
    return kind == "adapter"


def _beginning(told: Told, source: Origin, adapter: bool) -> str:
    """The run's card, or a head of the same form."""
    if source.certificate is not None:
        return model_card(source.certificate, source.recipe or "", adapter)
    base = source.base or told["model"]
    settings = ["## Settings", "", "```yaml", source.recipe.rstrip(), "```", ""] if source.recipe else []
    about = f"`{source.checkpoint}` of a run that" if source.checkpoint else "A model that"
    return "\n".join(
        [
            "---",
            f"base_model: {base}",
            f"library_name: {'peft' if adapter else 'transformers'}",
            "tags: [holdfast]",
            "---",
            "",
            f"# {base}, exported by Holdfast",
            "",
            f"{about} brought no certificate: what it learnt and kept was not measured here.",
            "",
            *settings,
            "Versions: " + ", ".join(f"{name} {version}" for name, version in told["versions"].items()) + ".",
        ]
    )


def _made(told: Told, kind: str) -> list[str]:
    form = "A PEFT adapter, as it was trained" if _is_adapter(kind) else f"A plain model in {told['dtype']}"
    made = f"{form}; from `{told['model']}` (SHA-256 of its config and weights: `{told['digest']}`)."
    return [made, f"SHA-256 of these config and weights: `{told['parts'][kind]['digest']}`."]


def _merged(told: Told) -> list[str]:
    check = told["merge"]
    found = check["difference"]
    verdict = "as allowed" if check["passed"] else "more than allowed, and written all the same (--force)"
    changed = (
        f"Against the model before: the largest difference of a logit is {found['largest']:.3g} "
        f"({100 * found['largest'] / (found['spread'] or 1):.2g} % of the logits' spread of {found['spread']:.3g}; "
        f"allowed {check['tolerance']:.3g}: {verdict}), and the likeliest token changed at "
        f"{100 * found['flipped']:.3g} % of {found['positions']} positions."
    )
    lines = [changed]
    if check["quantised"]:
        lines.append("The base was quantised while it was measured; it was dequantised to float32 before merging.")
    if check["parted"]:
        lines.append(
            "Embedding and head were one weight in the base, and are two here: the adapter changed one of them."
        )
    return lines
