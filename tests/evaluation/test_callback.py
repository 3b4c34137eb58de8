"""The monitor in anybody's Trainer: it changes nothing, goes on where a training stopped, and says what it sees."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import transformers

from holdfast._errors import BadCheckpoint, BadInput, TrainingStopped
from holdfast.base import load_base
from holdfast.data.rows import Row, collate
from holdfast.evaluation.callback import MonitorCallback
from holdfast.evaluation.reaction import post


def rows(n: int, seed: int = 0) -> list[Row]:
    drawn = torch.randint(3, 500, (n, 24), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row, "labels": row} for row in drawn.tolist()]


def trainer(folder: Path, *callbacks: Any, **arguments: Any) -> transformers.Trainer:
    torch.manual_seed(0)
    model = load_base("tiny").model
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1  # random numbers in training, so that a stray draw would show
    args = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=2, learning_rate=1e-2, use_cpu=True, seed=3,
        disable_tqdm=True, remove_unused_columns=False, save_strategy="no", dataloader_pin_memory=False, **arguments,
    )  # fmt: skip
    return transformers.Trainer(
        model=model, args=args, train_dataset=rows(40), data_collator=lambda r: collate(r, 0), callbacks=[*callbacks]
    )


def weights(host: transformers.Trainer) -> torch.Tensor:
    assert host.model is not None
    return torch.cat([p.detach().flatten() for p in host.model.parameters()])


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "monitor/log.jsonl").read_text("utf-8").splitlines()]


def test_the_training_is_bit_for_bit_the_one_without_it(tmp_path: Path) -> None:
    plain = trainer(tmp_path / "a")
    plain.train()
    watched = trainer(tmp_path / "b", MonitorCallback({"old": rows(8, 1)}, every=2))
    watched.train()
    assert torch.equal(weights(plain), weights(watched))
    assert [(line["step"], line["kind"]) for line in log(tmp_path / "b") if line["kind"] == "probe"] == [
        (2, "probe"), (4, "probe"), (6, "probe"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_training_that_goes_on_has_the_log_of_one_that_never_stopped(tmp_path: Path) -> None:
    def watched(folder: Path, **arguments: Any) -> transformers.Trainer:
        return trainer(folder, MonitorCallback({"old": rows(8, 1)}, {"new": rows(40)}, every=2, share=0.9), **arguments)

    whole = watched(tmp_path / "whole")
    whole.args.save_strategy, whole.args.save_steps = transformers.trainer_utils.SaveStrategy.STEPS, 3
    whole.train()
    expected = log(tmp_path / "whole")
    again = watched(tmp_path / "whole")
    again.args.save_strategy, again.args.save_steps = transformers.trainer_utils.SaveStrategy.STEPS, 3
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert log(tmp_path / "whole") == expected and len(expected) > 4
    assert torch.equal(weights(again), weights(whole))
    (tmp_path / "whole/checkpoint-3/monitor.json").unlink()
    with pytest.raises(BadCheckpoint, match="without this monitor"):
        watched(tmp_path / "whole").train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))


@pytest.mark.parametrize(("way", "steps"), [("log", 6), ("stop", 2)])
def test_an_alarm_is_logged_or_stops_the_training(tmp_path: Path, way: str, steps: int) -> None:
    known = load_base("tiny").tokenizer("Once upon a time there was a girl named Lily. She", return_tensors=None)
    old = [{"input_ids": known["input_ids"], "labels": known["input_ids"]}] * 12
    different = [{k: v[i:] for k, v in row.items()} for i, row in enumerate(old[:6])]
    callback = MonitorCallback({"old": different}, every=1, rows=6, margins={"old": 0.001}, on_alarm=way, save="alarms")
    host = trainer(tmp_path, callback)
    host.train()
    alarms = [line for line in callback.lines if line["kind"] == "alarm"]
    assert alarms and alarms[0]["lower"] > 0.001
    assert host.state.global_step == (steps if way == "log" else alarms[0]["step"])
    assert (tmp_path / f"monitor/step-{alarms[0]['step']}/moved.safetensors").is_file()


def test_an_alarm_can_be_an_exception(tmp_path: Path) -> None:
    callback = MonitorCallback({"old": rows(8, 1)}, every=1, rows=8, margins={"old": -9.0}, on_alarm="raise")
    with pytest.raises(TrainingStopped, match="was allowed"):
        trainer(tmp_path, callback).train()


def test_what_cannot_be_reacted_with_is_refused() -> None:
    with pytest.raises(BadInput, match="log, stop, raise"):
        MonitorCallback({}, on_alarm="shout")
    with pytest.raises(BadInput, match="http or https"):
        MonitorCallback({}, webhook="file:///etc/passwd")


def test_a_webhook_is_told_and_a_deaf_one_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[dict[str, Any]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        Thread(target=server.handle_request, daemon=True).start()
        post(f"http://127.0.0.1:{server.server_port}", {"text": "故事", "rise": float("inf")}).join(5)
    assert heard == [{"text": "故事", "rise": None}]
    post(f"http://127.0.0.1:{server.server_port}", {"text": "x"}).join(5)
    assert "could not be sent" in caplog.text
