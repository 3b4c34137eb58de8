"""What is exported can be loaded by anybody, says where it comes from, and is there whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from holdfast._errors import BadInput, ExportRefused, UnknownName, Unsupported
from holdfast.adapters.stored import load_adapted
from holdfast.evaluation.plain import write_json
from holdfast.export import export, exporting, logits_of
from tests.characters import base_folder
from tests.export.adapted import MLP, adapter_folder
from tests.models import quickly

ROWS = torch.randint(3, 80, (2, 12), generator=torch.Generator().manual_seed(1)).tolist()
FILES = {"README.md", "complete.json", "config.json", "export.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "dora"])
def test_a_merged_export_is_a_plain_model_that_answers_as_the_adapted_one(tmp_path: Path, name: str) -> None:
    folder = adapter_folder(tmp_path, name)
    made = export(folder, tmp_path / "out")
    kind: Any = AutoModelForSeq2SeqLM if name == "t5" else AutoModelForCausalLM
    plain = kind.from_pretrained(tmp_path / "out").eval()
    adapted = load_adapted(folder).model
    assert (logits_of(plain, ROWS) - logits_of(adapted, ROWS)).abs().max() < 1e-5
    assert files(tmp_path / "out") == FILES | TOKENIZER
    assert made.merge is not None and made.merge.passed
    assert [part.kind for part in made.parts] == ["merged"] and made.parts[0].reloaded.largest < 1e-6
    assert made.parts[0].digest == load_adapted(tmp_path / "out").digest


def test_an_exported_adapter_is_one_of_pefts(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    export(folder, tmp_path / "out", form="adapter")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    assert torch.equal(logits_of(again, ROWS), logits_of(load_adapted(folder).model, ROWS))
    assert "config.json" not in files(tmp_path / "out")


def test_both_forms_stand_in_folders_of_their_own(tmp_path: Path) -> None:
    made = export(adapter_folder(tmp_path, chat=True), tmp_path / "out", form="both")
    assert [part.folder for part in made.parts] == [tmp_path / "out/adapter", tmp_path / "out/merged"]
    both = [logits_of(load_adapted(part.folder).model, ROWS) for part in made.parts]
    assert (both[0] - both[1]).abs().max() < 1e-5
    for part in made.parts:
        assert (part.folder / "README.md").is_file() and (part.folder / "export.json").is_file()


def test_the_tokenizer_that_the_adapter_was_saved_with_goes_along(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    known = AutoTokenizer.from_pretrained(tmp_path / "base")
    known.chat_template = "{{ messages[0]['content'] }}"
    known.save_pretrained(folder)
    export(folder, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == known.chat_template


@pytest.mark.parametrize("dtype", quickly(["bfloat16"], ["bfloat16", "float16"]))
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_in_sixteen_bits_the_files_are_as_small_and_load_as_they_were(tmp_path: Path, name: str, dtype: str) -> None:
    made = export(adapter_folder(tmp_path, name), tmp_path / "out", dtype=dtype)
    assert made.parts[0].reloaded.largest == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype
    assert (tmp_path / "out/model.safetensors").stat().st_size < 0.8 * (
        tmp_path / "base/model.safetensors"
    ).stat().st_size


@pytest.mark.parametrize("extra", [{"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}])
def test_an_untied_head_survives_the_files(tmp_path: Path, extra: dict[str, Any]) -> None:
    config = LoraConfig(r=2, target_modules=MLP, **extra)
    folder = adapter_folder(tmp_path, config=config, tied=True)
    export(folder, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert plain.config.tie_word_embeddings is False
    assert (logits_of(plain, ROWS) - logits_of(load_adapted(folder).model, ROWS)).abs().max() < 1e-5
    assert "are two here" in (tmp_path / "out/README.md").read_text()


def test_an_untied_head_of_an_encoder_and_decoder_survives_too(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q", "v"], modules_to_save=["lm_head"], task_type="SEQ_2_SEQ_LM")
    folder = adapter_folder(tmp_path, "t5", config=config, tied=True)
    export(folder, tmp_path / "out")
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert (logits_of(plain, ROWS) - logits_of(load_adapted(folder).model, ROWS)).abs().max() < 1e-5


KEPT = {"ratio": 1.011, "ratio_upper": 1.017, "budget": 0.02, "verdict": "holds"}
LEARNT = {"perplexity": 9.5, "perplexity_low": 9.0, "perplexity_high": 10.0, "gain": 0.7, "low": 0.6, "high": 0.8}
CERTIFICATE: dict[str, Any] = {
    "verdict": "holds",
    "kept": [{"text": "old", "source": "old.txt", "n": 40, **KEPT}],
    "learnt": [{"text": "new", "n": 7, **LEARNT}],
    "base": {"name": "tiny-one", "digest": "a" * 64},
    "method": "lora",
    "seed": 3,
    "steps": 12,
    "stopped": None,
    "versions": {"holdfast": "0.1.0"},
}


def run_folder(folder: Path) -> Path:
    """A run as its training leaves it: certificate, recipe and final/."""
    adapter_folder(folder).rename(folder / "final")
    write_json(CERTIFICATE, folder / "certificate.json")
    (folder / "recipe.yaml").write_text("base: tiny-one\nseed: 3\n")
    shutil.copytree(folder / "final", folder / "checkpoint-4")
    return folder


@pytest.mark.parametrize("what", ["", "final"])
def test_card_and_certificate_of_the_run_go_along(tmp_path: Path, what: str) -> None:
    export(run_folder(tmp_path) / what, tmp_path / "out", dtype="bfloat16")
    card = (tmp_path / "out/README.md").read_text()
    for told in (
        "base_model: tiny-one",
        "library_name: transformers",
        "a" * 64,
        "`lora` for 12 steps",
        "+1.70%",
        "seed: 3",
    ):
        assert told in card
    figures = json.loads((tmp_path / "out/export.json").read_text())
    assert f"difference of a logit is {figures['merge']['difference']['largest']:.3g} (" in card
    assert "What stands above was measured on that model" in card and "bfloat16" in card
    assert figures["parts"]["merged"]["digest"] in card
    assert json.loads((tmp_path / "out/certificate.json").read_text()) == CERTIFICATE
    assert (tmp_path / "out/recipe.yaml").read_text() == "base: tiny-one\nseed: 3\n"


def test_an_export_keeps_its_evidence_when_it_is_exported_again(tmp_path: Path) -> None:
    export(run_folder(tmp_path), tmp_path / "out")
    export(tmp_path / "out", tmp_path / "again", dtype="float16")
    assert json.loads((tmp_path / "again/certificate.json").read_text()) == CERTIFICATE


def test_a_certificate_says_nothing_about_a_checkpoint_on_the_way(tmp_path: Path) -> None:
    export(run_folder(tmp_path) / "checkpoint-4", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "`checkpoint-4` of a run" in card and "no certificate" in card and "seed: 3" in card
    assert not (tmp_path / "out/certificate.json").exists()


def test_a_plain_model_is_written_as_it_is(tmp_path: Path) -> None:
    made = export(base_folder(tmp_path / "base"), tmp_path / "out")
    assert made.merge is not None and made.merge.difference.largest == 0
    assert "brought no certificate" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(BadInput, match="has no adapter"):
        export(tmp_path / "base", tmp_path / "out2", form="adapter")


def test_what_cannot_be_merged_is_still_an_adapter(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    folder = adapter_folder(tmp_path, config=config)
    for form in ("merged", "both"):
        with pytest.raises(Unsupported, match=r"virtual tokens.*--adapter"):
            export(folder, tmp_path / "out", form=form)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
    export(folder, tmp_path / "out", form="adapter")
    assert torch.equal(*(logits_of(load_adapted(f).model, ROWS) for f in (folder, tmp_path / "out")))


def test_a_refused_merge_leaves_nothing_and_force_says_so(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    before = sorted(tmp_path.iterdir())
    asked: dict[str, Any] = {"dtype": "bfloat16", "tolerance": 1e-6}
    with pytest.raises(ExportRefused, match="Nothing was written"):
        export(folder, tmp_path / "out", form="both", **asked)
    assert sorted(tmp_path.iterdir()) == before
    export(folder, tmp_path / "out", force=True, **asked)
    assert "more than allowed, and written all the same (--force)" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out/export.json").read_text())["merge"]["passed"] is False


def test_files_that_are_not_the_model_are_found_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = exporting._save

    def damaged(model: Any, tokenizer: Any, there: Path) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[5] += 0.01
            save(model, tokenizer, there)
            model.get_input_embeddings().weight[5] -= 0.01

    folder = adapter_folder(tmp_path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(exporting, "_save", damaged)
    with pytest.raises(ExportRefused, match="not the model that was in memory"):
        export(folder, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_bad_input_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="already there and not empty"):
        export("tiny", tmp_path / "full")
    with pytest.raises(UnknownName, match="bfloat16"):
        export("tiny", tmp_path / "out", dtype="bfloat")
    with pytest.raises(UnknownName, match="merged"):
        export("tiny", tmp_path / "out", form="merge")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="for merged models"):
        export("tiny", tmp_path / "out", form="adapter", dtype="bfloat16")
    with pytest.raises(BadInput, match="tolerance"):
        export("tiny", tmp_path / "out", tolerance=float("nan"))
    assert files(tmp_path) == {"full/mine.txt"}
    export(base_folder(tmp_path / "base"), tmp_path / "empty")
    assert (tmp_path / "empty/config.json").is_file()
