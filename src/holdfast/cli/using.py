"""Commands that use a model: export, generate and chat."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

import holdfast
from holdfast._errors import BadInput
from holdfast.cli.app import Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.base
    import holdfast.display
    import holdfast.export
    import holdfast.generation
    import holdfast.recipe

MODEL = "`tiny`, a run's folder, a checkpoint, an adapter, a model's folder, or a Hub id."
Model = Annotated[str, typer.Argument(help=MODEL)]
Temperature = Annotated[float, typer.Option(help="0: always the likeliest token; above it, tokens are drawn.")]
TopP = Annotated[float, typer.Option(help="Draw from the fewest tokens whose probabilities sum to this.")]
TopK = Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens (0: all).")]
Penalty = Annotated[float, typer.Option(help="Divide the logits of tokens that stand there already by this.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends an answer and is cut from it. Repeatable.")]
Longest = Annotated[int | None, typer.Option(help="Tokens of an answer, at most; default: 128, as the model has room.")]
Seed = Annotated[int, typer.Option(help="What is drawn follows from it.")]


@app.command()
def export(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Where it goes; not there yet, or empty.")],
    merge: Annotated[bool, typer.Option("--merge", help="One plain model, the adapter merged (the default).")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, beside its base.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Both, in merged/ and adapter/.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Of merged weights: float32 (default), bfloat16, float16.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="How far a logit may move; default: 0.001, below float32 half of their spread."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write a merged model though a logit moved further.")] = False,
    debug: Debug = False,
) -> None:
    """Write a model for others, with card and certificate: merged and checked, as an adapter, or both."""
    if merge + adapter + both > 1:
        raise BadInput("--merge, --adapter and --both exclude each other; give one of them.")
    holdfast.display.hush()
    form: Literal["merged", "adapter", "both"] = "adapter" if adapter else "both" if both else "merged"
    exports = holdfast.export
    made = exports.export(
        model, folder, form=form, dtype=dtype, tolerance=tolerance, force=force, say=lambda line: say(f"{line} …")
    )
    told = made.told()
    for part in made.parts:
        for line in exports.checks(told, part.kind):
            console.print(Text(line))
        console.print(f"{part.kind}: {part.folder}", soft_wrap=True)


@app.command()
def generate(
    model: Model,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Texts to go on from or answer; `-` reads one from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Prompts: a line each of a .txt, or a .jsonl with `prompt`.")
    ] = None,
    beams: Annotated[int, typer.Option(help="Continuations to compare; the likeliest is given.")] = 1,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    max_new_tokens: Longest = None,
    stop: Stop = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts at a time; changes no answer.")] = 8,
    raw: Annotated[
        bool, typer.Option("--raw", help="Go on from the prompt as it stands, without chat template.")
    ] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print a single answer when it is done.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write prompts and answers to a .jsonl as well.")] = None,
    debug: Debug = False,
) -> None:
    """Let a model answer: one prompt as it is written, several one after the other."""
    room = holdfast.generation
    settings = room.Writing(
        max_new_tokens, temperature, top_p, top_k, beams, repetition_penalty, tuple(stop or ()), seed, batch_size, raw
    )
    asked = [*(sys.stdin.read() if text == "-" else text for text in prompts or ())]
    asked += room.read_prompts(file) if file is not None else []
    if not asked:
        raise BadInput("There is no prompt. Write one, name a file (--file prompts.txt), or read stdin: `-`.")
    holdfast.display.hush()
    base = _opened(model)
    if len(asked) == 1 and beams == 1 and not no_stream:
        answers = [_streamed(base, asked[0], settings)]
    else:
        answers = room.generate(base, asked, settings)
        _print(asked, answers)
    if output is not None:
        _write(asked, answers, output)


@app.command()
def chat(
    model: Model,
    base: Annotated[bool, typer.Option(help="Show what its base answers beside it, where it has one.")] = True,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    repetition_penalty: Penalty = 1.0,
    max_new_tokens: Longest = None,
    stop: Stop = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Talk with a model, its base beside it; /help lists the commands. Reads lines from stdin."""
    room = holdfast.generation
    drawn = {"top_p": top_p, "top_k": top_k, "repetition_penalty": repetition_penalty, "seed": seed}
    settings = room.Writing(max_new_tokens, temperature, stop=tuple(stop or ()), **drawn)  # type: ignore[arg-type]
    holdfast.display.hush()
    room.Chat(room.talks(model, beside=base), settings, console).run()


def _opened(name: str) -> holdfast.base.Base:
    import holdfast.recipe.comparing  # a room's own modules do not come by being asked for

    return holdfast.recipe.comparing.opened(name)


def _streamed(base: holdfast.base.Base, prompt: Any, settings: holdfast.generation.Writing) -> str:
    answer = ""
    try:
        for piece in holdfast.generation.stream(base, prompt, settings):
            answer += piece
            console.print(Text(piece), end="", soft_wrap=True)
    except KeyboardInterrupt:
        console.print()
        raise typer.Exit(130) from None
    console.print()
    return answer


def _print(prompts: list[Any], answers: list[str]) -> None:
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if len(prompts) > 1:
            shown = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
            console.print(Text(("\n" if number else "") + shown, style="dim"), soft_wrap=True)
        console.print(Text(answer), soft_wrap=True)


def _write(prompts: list[Any], answers: list[str], output: Path) -> None:
    from holdfast.checkpoint import file_kept_whole

    pairs = zip(prompts, answers, strict=True)
    lines = [{"prompt" if isinstance(p, str) else "messages": p, "answer": answer} for p, answer in pairs]
    with file_kept_whole(output) as half:
        half.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    console.print(f"Answers: {output}", soft_wrap=True)
