"""How fast are semantic IDs made, and what are they worth?

    python benchmarks/quantise.py --quick      scikit-learn for one level of three, a short RQ-VAE  (five minutes)
    python benchmarks/quantise.py              scikit-learn for all levels                          (fifteen minutes)

Speed: residual k-means of 100,000 made-up embeddings of 256 dimensions (families within families, of length 1) into
three levels of 256 codes, on as many threads as told, also with `--quick`; and scikit-learn's KMeans doing the same,
each level on what the levels before leave (with `--quick` the first level alone, and the ratio is of that level).
Inertia is the sum of squared distances to the nearest centre, as a ratio to scikit-learn's.

Worth: items of a catalogue by TF-IDF in 256 dimensions, in IDs of three levels of 256 codes. Sharing is the number of
items that share an ID, before and after it is resolved; error is the squared error of what the IDs say, relative to
that of the mean; lift is how many times more often than chance an item's 10 nearest neighbours have its first code.
Where the catalogue's own index is there, it is measured by the same embeddings (which it was not made from).

Exits 1 when residual k-means takes 120 seconds or more, when a level's inertia is over 1.01 of scikit-learn's, or
when items share an ID in the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from record import keep, show, verdict
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.items.building import adopt, identify
from holdfast.items.embedding import embed
from holdfast.items.index_files import read_ids
from holdfast.items.quantisers import Residual, residuals
from holdfast.items.reading import load

ITEMS, DIM, LEVELS, CODES = 100_000, 256, 3, 256
SECONDS, CLOSE = 120.0, 1.01
"""What residual k-means must keep: its time, and its inertia beside scikit-learn's."""

CATALOGUE = Path(__file__).parents[2] / "shared" / "data" / "rec" / "amazon_industrial"


def made_up() -> Tensor:
    """Embeddings of 50 families of 60 kinds each, in directions of falling weight."""
    draws = torch.Generator().manual_seed(0)
    families, kinds = torch.randn(50, DIM, generator=draws), torch.randn(3000, DIM, generator=draws)
    kind = torch.randint(3000, (ITEMS,), generator=draws)
    x = families[kind % 50] + 0.7 * kinds[kind] + 0.7 * torch.randn(ITEMS, DIM, generator=draws)
    return normalize(x * torch.arange(1, DIM + 1).pow(-0.5))


def speed(levels_of_theirs: int) -> dict[str, Any]:
    """Seconds of all levels, and for each level seconds and inertia of both."""
    x, lines = made_up(), list[tuple[float, str]]()
    start = time.perf_counter()
    found = Residual(LEVELS, CODES)(x, progress=lambda line: lines.append((time.perf_counter() - start, line)))
    seconds = time.perf_counter() - start
    ends = [0.0, *(at for at, line in lines if "done" in line)]
    levels = []
    for level in range(LEVELS):
        left = residuals(x, found.codes[:, :level], found.codebooks)
        after = left - found.codebooks[level][found.codes[:, level]]
        levels.append({"seconds": ends[level + 1] - ends[level], "inertia": float(after.double().square().sum())})
        if level < levels_of_theirs:
            began = time.perf_counter()
            theirs = KMeans(CODES, n_init=1, random_state=0).fit(left.numpy())
            levels[-1] |= {
                "scikit_learn_seconds": time.perf_counter() - began,
                "scikit_learn_inertia": float(theirs.inertia_),
                "scikit_learn_iterations": int(theirs.n_iter_),
            }
            print(f"level {level + 1}: {levels[-1]}", flush=True)
    return {"seconds": seconds, "levels": levels}


def worth(folder: Path, steps: int) -> dict[str, Any] | str:
    """Seconds and report of each quantiser on a catalogue's words; a sentence where there is no catalogue."""
    if not folder.is_dir():
        return f"not measured: there is no folder {folder.name}"
    catalogue = load(folder, on_bad="report")
    texts = [" ".join([i.title, *i.description, i.brand, *i.categories]) for i in catalogue.items.values()]
    items, x = list(catalogue.items), embed(texts, dim=DIM)
    found: dict[str, Any] = {}
    for name, settings in (("residual", {}), ("balanced", {}), ("rqvae", {"steps": steps})):
        start = time.perf_counter()
        ids = identify(items, x, {name: {"levels": LEVELS, "codes": CODES, **settings}})
        found[name] = {"seconds": time.perf_counter() - start, **ids.report}
    if index := next(folder.rglob("*.index.json"), None):
        shipped = read_ids(index, duplicates="allow")
        rows = torch.tensor([items.index(item) for item in shipped.items])
        found["its own index"] = adopt(shipped, x[rows], shared="keep").report
    return found


def shown(fast: dict[str, Any], value: dict[str, Any] | str) -> None:
    lines = []
    for i, level in enumerate(fast["levels"], start=1):
        theirs = [level.get(f"scikit_learn_{what}") for what in ("seconds", "inertia")]
        ratios = ["not run"] * 3
        if theirs[0] is not None:
            ratios = [f"{theirs[0]:.1f}", f"{theirs[0] / level['seconds']:.1f}", f"{level['inertia'] / theirs[1]:.4f}"]
        lines.append([f"level {i}", f"{level['seconds']:.1f}", *ratios])
    lines.append(["all", f"{fast['seconds']:.1f}", "", "", ""])
    head = ["", "seconds", "scikit-learn", "times faster", "inertia, ratio"]
    show(f"Residual k-means, {ITEMS:,} x {DIM}, {LEVELS} x {CODES} codes", head, lines)
    if isinstance(value, str):
        print(value)
        return
    rows = [
        [
            name,
            f"{r['seconds']:.1f}" if "seconds" in r else "",
            f"{r['before']['items']}",
            f"{r['after']['items']}",
            f"{r['error']:.3f}",
            *(f"{n['share']:.3f} ({n['lift']:.0f} x)" for n in r["neighbourhoods"]),
            " ".join(f"{level['perplexity']:.0f}" for level in r["levels"]),
        ]
        for name, r in value.items()
    ]
    first = next(iter(value.values()))
    head = ["", "seconds", "sharing before", "after", "error", "first code", "first two", "perplexity"]
    show(f"{first['items']:,} items of a catalogue", head, rows)


def goals(fast: dict[str, Any], value: dict[str, Any] | str) -> tuple[list[str], str]:
    """What missed its goal, and a line for when nothing did."""
    ratios = [r["inertia"] / r["scikit_learn_inertia"] for r in fast["levels"] if "scikit_learn_inertia" in r]
    times = [r["scikit_learn_seconds"] / r["seconds"] for r in fast["levels"] if "scikit_learn_inertia" in r]
    missed = [f"{fast['seconds']:.0f} s (limit {SECONDS:g} s)"] if fast["seconds"] >= SECONDS else []
    if max(ratios) > CLOSE:
        missed.append(f"inertia {max(ratios):.4f} times scikit-learn's (limit {CLOSE:g})")
    if not isinstance(value, str):
        shared = {n: r["after"]["items"] for n, r in value.items() if "seconds" in r and r["after"]["items"]}
        missed += [f"{items} items share an ID by {name}" for name, items in shared.items()]
    held = (
        f"{ITEMS:,} items in {fast['seconds']:.0f} s (limit {SECONDS:g} s), at least {min(times):.1f} times as fast as "
        f"scikit-learn, inertia at most {max(ratios):.4f} times its (limit {CLOSE:g})"
    )
    return missed, held if isinstance(value, str) else f"{held}, no items share an ID"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="scikit-learn for one level, 300 steps of the RQ-VAE")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch uses")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="folder of a catalogue")
    parser.add_argument("--output", type=Path, default="quantise.json", help="where the figures of a whole run go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load_average = round(os.getloadavg()[0], 2)
    fast = speed(1 if arguments.quick else LEVELS)
    value = worth(arguments.catalogue, 300 if arguments.quick else 2000)
    shown(fast, value)
    missed, held = goals(fast, value)
    line = verdict(missed, held)
    if not arguments.quick:
        keep(arguments.output, verdict=line, threads=arguments.threads, load_average=load_average, speed=fast,
             worth=value)  # fmt: skip
    print(line)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
