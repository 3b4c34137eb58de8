"""The live display of runs."""

from __future__ import annotations

import io

from rich.console import Console

from holdfast.display import Display, counted

LINES = [
    {"kind": "stage", "text": "loading tiny"},
    {"kind": "train", "step": 1, "loss": 3.25},
    {"kind": "learn", "step": 1, "text": "new", "gain": 0.5},
    {"kind": "probe", "step": 1, "text": "self", "rise": 0.01},
    {"kind": "movement", "step": 1, "groups": {}},
    {"kind": "step", "step": 1, "of": 2},
    {"kind": "step", "step": 2, "of": 2},
]


def shown(terminal: bool) -> str:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=terminal, width=120), runs=2) as display:
        watcher = display.run("plain")
        for line in LINES:
            watcher(line)
        watcher.done()
    return out.getvalue()


def test_a_terminal_shows_bars_with_the_figures_so_far() -> None:
    told = shown(terminal=True)
    for part in ("all runs", "1/2", "plain", "2/2", "loss 3.250", "gain +0.500", "self +1.01"):
        assert part in told


def test_elsewhere_there_are_plain_lines() -> None:
    told = shown(terminal=False).splitlines()
    assert told[0] == "plain: loading tiny" and told[-1] == "plain: done"
    assert told[1].startswith("plain: step 1 of 2  loss 3.250") and "\x1b" not in "".join(told)


def test_elsewhere_a_tenth_of_the_steps_never_passes_without_a_line() -> None:
    for of in (1, 7, 25, 300):
        out = io.StringIO()
        with Display(Console(file=out, width=120)) as display:
            watcher = display.run("plain")
            for step in range(1, of + 1):
                watcher({"kind": "step", "step": step, "of": of})
        told = [int(line.split()[2]) for line in out.getvalue().splitlines()]
        assert told[-1] == of
        assert max(b - a for a, b in zip([0, *told], told, strict=False)) <= max(1, of / 10)


def test_a_count_is_a_bar_on_a_terminal_and_nothing_elsewhere() -> None:
    told = []
    for terminal in (True, False):
        out = io.StringIO()
        with counted(Console(file=out, force_terminal=terminal, width=120), "fisher", 64) as count:
            count(8)
            count(64)
        told.append(out.getvalue())
    assert "fisher" in told[0] and "64/64" in told[0]
    assert not told[1].strip()
