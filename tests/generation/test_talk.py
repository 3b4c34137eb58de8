"""A talk remembers what was said, fits it into the model, and knows the base beside an adapter."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from rich.console import Console

from holdfast._errors import BadInput
from holdfast.generation import Chat, Talk, Writing, generate, talks
from holdfast.generation.prompts import encoded
from tests.characters import base, base_folder
from tests.export.adapted import MLP, adapter_folder

SETTINGS = Writing(6)


def said(talk: Talk, text: str, settings: Writing = SETTINGS) -> str:
    return "".join(talk.answer(text, settings))


def test_each_answer_is_given_to_all_that_was_said() -> None:
    model = base(chat=True)
    talk = Talk("it", model, system="Be kind")
    first = said(talk, "Hi")
    turns = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    assert [first] == generate(model, [turns], SETTINGS)
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "So"}]
    assert [said(talk, "So")] == generate(model, [turns], SETTINGS)
    assert talk.whole()[:-1] == turns
    talk.reset()
    assert said(talk, "Hi") == first and talk.system == "Be kind"


def test_without_a_template_the_text_goes_on() -> None:
    model = base()
    talk = Talk("it", model)
    first = said(talk, "One")
    assert talk.plain and [first] == generate(model, ["One"], SETTINGS)
    assert [said(talk, "Two")] == generate(model, [f"One{first}\nTwo"], SETTINGS)


@pytest.mark.parametrize("chat", [True, False])
def test_the_oldest_messages_go_when_the_model_has_no_room(chat: bool) -> None:
    model = base(chat=chat)
    talk = Talk("it", model, system="S")
    for number in range(6):
        answer = said(talk, f"message {number}")
    assert talk.forgotten % 2 == 0 and 0 < talk.forgotten < 10 and len(talk.messages) == 12

    def read(first: int) -> Any:
        turns = [{"role": "system", "content": "S"}, *talk.messages[first:-1]]
        text = "".join(str(m["content"]) + ("" if m["role"] == "user" else "\n") for m in turns)
        return turns if chat else text

    assert [answer] == generate(model, [read(talk.forgotten)], SETTINGS)
    room = 64 - 6
    assert len(encoded(model, read(talk.forgotten), SETTINGS)[0]) <= room
    assert len(encoded(model, read(talk.forgotten - 2), SETTINGS)[0]) > room


def test_an_answer_that_is_broken_off_is_remembered_so_far() -> None:
    talk = Talk("it", base())
    pieces = talk.answer("One", Writing(30))
    piece = next(pieces)
    pieces.close()
    assert talk.messages == [{"role": "user", "content": "One"}, {"role": "assistant", "content": piece}]


def test_a_message_that_cannot_be_taken_is_not_remembered() -> None:
    talk = Talk("it", base(chat=True))
    talk.base.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(BadInput, match="never"):
        said(talk, "Hi")
    assert talk.messages == []


@pytest.mark.parametrize("init", [True, "pissa"])
def test_beside_an_adapter_stands_its_base(tmp_path: Path, init: Any) -> None:
    config = LoraConfig(r=2, target_modules=MLP, init_lora_weights=init)
    folder = adapter_folder(tmp_path, config=config, std=3.0, tied=False)
    adapted, plain = talks(str(folder))
    assert said(plain, "The") == said(*talks(str(tmp_path / "base")), "The")
    with torch.no_grad(), plain.entered():
        logits = plain.base.model(torch.tensor([[5, 6, 7]])).logits
    known = talks(str(tmp_path / "base"))[0].base.model
    with torch.no_grad():
        assert (logits - known(torch.tensor([[5, 6, 7]])).logits).abs().max() < 1e-6
        assert (logits - adapted.base.model(torch.tensor([[5, 6, 7]])).logits).abs().max() > 1e-3
    assert len(talks(str(folder), beside=False)) == 1


def test_beside_a_run_of_all_weights_stands_the_base_that_its_recipe_names(tmp_path: Path) -> None:
    base_folder(tmp_path / "run/final")
    (tmp_path / "run/recipe.yaml").write_text(f"base: {base_folder(tmp_path / 'start', seed=1)}\n")
    run, start = talks(str(tmp_path / "run"))
    assert str(tmp_path / "start") in start.name
    assert not torch.equal(*(side.base.model.get_input_embeddings().weight for side in (run, start)))  # type: ignore[operator]
    assert len(talks(str(tmp_path / "start"))) == 1


def talked(lines: list[str], monkeypatch: pytest.MonkeyPatch, *sides: Talk, **settings: Any) -> tuple[str, Chat]:
    """What a chat prints when it is given these lines."""
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    chat = Chat(sides or [Talk("it", base())], Writing(6, **settings), console)
    chat.run()
    return console.file.getvalue(), chat  # type: ignore[attr-defined]


def test_a_chat_answers_until_it_is_told_to_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    told, chat = talked(["The", "", "/quit", "never read"], monkeypatch)
    assert "no chat template" in told
    assert generate(base(), ["The"], Writing(6))[0].split("\n")[0] in told
    assert [m["content"] for m in chat.sides[0].messages if m["role"] == "user"] == ["The"]


def test_commands_change_the_talk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "new/talk.jsonl"
    lines = ["/system Be kind", "Hi", f"/save {file}", "/reset", "/seed 7", "/temperature 0.5", "/help"]
    told, chat = talked(lines, monkeypatch, Talk("it", base(chat=True)), temperature=1.0, top_k=4)
    assert (chat.settings.seed, chat.settings.temperature, chat.settings.top_k) == (7, 0.5, 4)
    assert chat.sides[0].messages == [] and "no chat template" not in told
    for command in chat.commands:
        assert command in told
    record = json.loads(file.read_text())
    assert record["model"] == "it" and [m["role"] for m in record["messages"]] == ["system", "user", "assistant"]
    _, chat = talked(["/temperature 0", "/system"], monkeypatch, temperature=1.0, top_p=0.5)
    assert (chat.settings.temperature, chat.settings.top_p) == (0, 1.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/rest", "Did you mean /reset"),
        ("/seed x", "whole number"),
        ("/temperature", "/temperature 0.7"),
        ("/temperature -1", "temperature is 0"),
        ("/save", "Name the file"),
        ("/save /dev/null/x", "cannot be written"),
    ],
)
def test_mistakes_are_told_and_the_talk_goes_on(monkeypatch: pytest.MonkeyPatch, line: str, why: str) -> None:
    told, chat = talked([line, "The"], monkeypatch)
    assert why in told and len(chat.sides[0].messages) == 2


def test_two_sides_stand_beside_each_other_and_hear_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = base(), base(seed=1)
    told, chat = talked(["The"], monkeypatch, Talk("mine", one), Talk("base", other))
    shown = [generate(model, ["The"], Writing(6))[0].strip().split("\n")[0] for model in (one, other)]
    assert shown[0] != shown[1]
    line = next(line for line in told.splitlines() if shown[0] in line)
    assert shown[1] in line and "mine" in told and "base" in told

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise BadInput("not this")

    monkeypatch.setattr(chat.sides[1], "answer", failing)
    with pytest.raises(BadInput):
        chat._line("So")
    assert [len(side.messages) for side in chat.sides] == [2, 2]


def test_ctrl_c_breaks_an_answer_off_and_the_talk_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Talk("it", base())
    forward, calls = side.base.model.forward, list[int]()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    monkeypatch.setattr(side.base.model, "forward", interrupted)
    told, chat = talked(["The", "Go on"], monkeypatch, side)
    assert "broken off" in told
    assert [m["content"] for m in chat.sides[0].messages if m["role"] == "user"] == ["The", "Go on"]
