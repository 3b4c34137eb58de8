"""The guide "catastrophic forgetting", chapters 3 and 9: its names, what it prints and writes, and what it promises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer

from holdfast import load_base
from holdfast.base import Base
from holdfast.evaluation.suites import DIMENSIONS, shipped
from holdfast.llm import (
    ComprehensiveForgettingEvaluator,
    DomainKnowledgeEvaluator,
    ForgettingEvaluationFramework,
    ForgettingMonitor,
    ModelEvaluator,
)
from tests.guides.printed import EMPTY, check_signature, copied, handed_over, run
from tests.llm.training import NEW, OLD, ROWS, arguments, small, values

NONE = None
SIGNATURES: dict[str, dict[str, Any]] = {
    "ForgettingEvaluationFramework": {"model_evaluator": EMPTY, "reference_tasks": EMPTY, "domain_tasks": EMPTY},
    "ForgettingEvaluationFramework.evaluate_pre_finetuning": {"base_model": EMPTY},
    "ForgettingEvaluationFramework.evaluate_post_finetuning": {"finetuned_model": EMPTY, "checkpoint_name": "default"},
    "ForgettingEvaluationFramework.generate_evaluation_report": {"output_file": NONE},
    "ModelEvaluator": {"tokenizer": EMPTY},
    "ModelEvaluator.evaluate_task": {"model": EMPTY, "task_name": EMPTY, "task_config": EMPTY},
    "ComprehensiveForgettingEvaluator": {"baseline_model": EMPTY, "baseline_tokenizer": EMPTY},
    "ComprehensiveForgettingEvaluator.evaluate_model": {
        "model": EMPTY,
        "model_name": EMPTY,
        "evaluation_datasets": EMPTY,
        "metrics": NONE,
    },
    "ComprehensiveForgettingEvaluator.calculate_forgetting_rate": {
        "pretrained_results": EMPTY,
        "finetuned_results": EMPTY,
    },
    "ComprehensiveForgettingEvaluator.generate_evaluation_report": {"output_file": NONE},
    "ComprehensiveForgettingEvaluator.visualize_results": {"metrics": NONE, "output_dir": "./visualizations"},
    "DomainKnowledgeEvaluator": {"model": EMPTY, "tokenizer": EMPTY},
    "DomainKnowledgeEvaluator.add_evaluation_set": {"domain_name": EMPTY, "questions": EMPTY, "ground_truths": EMPTY},
    "DomainKnowledgeEvaluator.load_evaluation_set_from_json": {"file_path": EMPTY, "domain_name": NONE},
    "DomainKnowledgeEvaluator.generate_domain_knowledge_qa": {
        "domain_name": EMPTY,
        "num_questions": 50,
        "output_file": NONE,
    },
    "DomainKnowledgeEvaluator.evaluate_domain_knowledge": {
        "domain_name": EMPTY,
        "evaluate_model": NONE,
        "max_questions": NONE,
    },
    "DomainKnowledgeEvaluator.evaluate_all_domains": {"evaluate_model": NONE, "max_questions_per_domain": NONE},
    "DomainKnowledgeEvaluator.generate_knowledge_retention_report": {
        "pretrained_results": EMPTY,
        "finetuned_results": EMPTY,
        "output_file": NONE,
    },
    "ForgettingMonitor": {"base_model": EMPTY, "base_tokenizer": EMPTY, "evaluation_datasets": EMPTY},
    "ForgettingMonitor.establish_baseline": {},
    "ForgettingMonitor.monitor": {
        "current_model": EMPTY,
        "step": EMPTY,
        "epoch": EMPTY,
        "save_checkpoint": True,
        "checkpoint_dir": "./monitor_checkpoints",
    },
    "ForgettingMonitor.create_callback": {
        "eval_interval": 1000,
        "save_checkpoint": True,
        "checkpoint_dir": "./monitor_checkpoints",
    },
    "ForgettingMonitor.generate_monitoring_report": {"output_file": NONE},
    "ForgettingMonitor.visualize_forgetting_trends": {"output_file": "./forgetting_trends.png"},
}

ATTRIBUTES = {
    "ForgettingEvaluationFramework": ["evaluation_history", "reference_tasks", "domain_tasks", "model_evaluator"],
    "ComprehensiveForgettingEvaluator": ["evaluation_results", "baseline_model", "baseline_tokenizer"],
    "DomainKnowledgeEvaluator": ["evaluation_sets", "model", "tokenizer"],
    "ForgettingMonitor": ["monitoring_logs", "baseline_results", "base_model", "base_tokenizer", "evaluation_datasets"],
}

LABELLED = [{"text": f"The {thing} is very", "labels": i % 2} for i, thing in enumerate(["dog", "cat", "sun", "tree"])]
ANSWERED = [
    {"text": "Once upon a time, there was a little", "target_texts": ["girl named Lily who liked to play outside."]},
    {"text": "The dog was", "target_texts": ["very happy and wagged his tail.", "sad."]},
]
DATASETS = {"故事": OLD[:6], "labelled": LABELLED, "answered": ANSWERED}
METRICS = ["perplexity", "accuracy", "f1", "bleu", "knowledge_retention"]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


@pytest.fixture(scope="module")
def spoilt() -> Any:
    """The embedded model with noise on its weights."""
    model = load_base("tiny").model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.04 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def theirs(name: str, **space: Any) -> Any:
    """The guide's own class."""
    block = next(b for b in copied(handed_over("catastrophic-forgetting.md")) if f"\nclass {name}" in f"\n{b}")
    return run(block, dict(space))[name]


def check_within(given: Any, ours: Any, where: str = "") -> None:
    """That ours holds all keys and values that the guide's holds, however deep; times may differ."""
    if isinstance(given, Mapping):
        assert set(given) <= set(ours), (where, set(given) - set(ours))
        for key, value in given.items():
            if key not in ("timestamp", "generation_time", "generated_at"):
                check_within(value, ours[key], f"{where}/{key}")
    elif isinstance(given, list):
        assert len(given) == len(ours), where
        for i, (one, other) in enumerate(zip(given, ours, strict=True)):
            check_within(one, other, f"{where}/{i}")
    else:
        assert ours == (pytest.approx(given) if isinstance(given, float) else given), where


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_name_takes_what_the_guide_gives_it(name: str) -> None:
    check_signature(name, SIGNATURES[name])


def test_every_object_has_the_guides_attributes(base: Base) -> None:
    made = [
        ForgettingEvaluationFramework(None, {}, {}),
        ComprehensiveForgettingEvaluator(base.model, base.tokenizer),
        DomainKnowledgeEvaluator(base.model, base.tokenizer),
        ForgettingMonitor(base.model, base.tokenizer, {}),
    ]
    for thing in made:
        assert all(hasattr(thing, name) for name in ATTRIBUTES[type(thing).__name__])


def test_every_dimension_and_every_suite_stands_in_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides.md").read_text("utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    for name in (*DIMENSIONS, *shipped()):
        assert any(f"`{name}`" in line for line in table), name
    tree = handed_over("catastrophic-forgetting.md").split("LLM灾难性遗忘的主要维度")[1].split("\n\n")[0]
    leaves = [line.split("── ")[1] for line in tree.splitlines() if line.startswith(("│   ", "    "))]
    assert len(leaves) == 9 and all(any(leaf in line for line in table) for leaf in leaves)


# Chapter 3 ----------------------------------------------------------------------------------------------------------


class Fixed:
    """An evaluator of somebody else's: scores by model and task; one task has no score."""

    scores: Mapping[str, Mapping[str, float]] = {
        "base": {"facts": 0.9, "reading": 0.8, "law": 0.4, "none": 0.0},
        "good": {"facts": 0.88, "reading": 0.81, "law": 0.7, "none": 0.1},
        "bad": {"facts": 0.5, "reading": 0.6, "law": 0.9, "none": 0.0},
    }

    def evaluate_task(self, model: str, task_name: str, task_config: Any) -> dict[str, Any]:
        return {"score": self.scores[model][task_name]} if task_name in self.scores[model] else {"note": "no score"}


def test_chapter_3_records_reports_and_prints_what_the_guide_does(capsys: pytest.CaptureFixture[str]) -> None:
    reference, domain = {"facts": {}, "reading": {}, "open": {}}, {"law": {}, "none": {}}
    told: dict[str, Any] = {}
    for label, kind in (("theirs", theirs("ForgettingEvaluationFramework")), ("ours", ForgettingEvaluationFramework)):
        framework = kind(Fixed(), reference, domain)
        framework.evaluate_pre_finetuning("base")
        framework.evaluate_post_finetuning("good", "epoch_10")
        framework.evaluate_post_finetuning("bad")
        report = framework.generate_evaluation_report("forgetting_evaluation_report.json")
        written = json.loads(Path("forgetting_evaluation_report.json").read_text("utf-8"))
        assert written == report
        told[label] = (framework.evaluation_history, report, capsys.readouterr().out)
    check_within(told["theirs"][0], told["ours"][0])
    check_within(told["theirs"][1], told["ours"][1])
    assert told["ours"][2] == told["theirs"][2]
    assert "LLM灾难性遗忘评估报告" in Path("forgetting_evaluation_report.json").read_text("utf-8")
    assert abs((datetime.now() - datetime.fromisoformat(report["generation_time"])).total_seconds()) < 60


def test_chapter_3_refuses_in_the_guides_words() -> None:
    framework = ForgettingEvaluationFramework(Fixed(), {}, {})
    with pytest.raises(ValueError, match="没有评估历史记录"):
        framework.generate_evaluation_report()
    with pytest.raises(ValueError, match="请先执行微调前评估"):
        framework.evaluate_post_finetuning("good")
    framework.evaluation_history.append({"type": "checkpoint"})
    with pytest.raises(ValueError, match="找不到基线评估记录"):
        framework.generate_evaluation_report()


def test_chapter_3_runs_over_suites_with_our_evaluator(base: Base, spoilt: Any) -> None:
    tasks = {"stories": {"data": OLD}, "grammar": {"data": "grammar.jsonl"}}
    asked = [{"prompt": f"The {thing}s", "answer": "are", "choices": ["are", "is"]} for thing in ["dog", "cat", "bird"]]
    Path("grammar.jsonl").write_text("\n".join(map(json.dumps, asked)))
    framework = ForgettingEvaluationFramework(ModelEvaluator(base.tokenizer), tasks, {"moon": {"data": NEW}})
    before = framework.evaluate_pre_finetuning(base.model)
    assert all({"score", "figure", "interval", "n", "metric"} <= set(r) for r in before["reference_results"].values())
    assert before["reference_results"]["grammar"]["metric"] == "choice_accuracy"
    after = framework.evaluate_post_finetuning(spoilt, "spoilt")
    stories = after["forgetting_metrics"]["changes"]["stories"]
    assert stories["verdict"] == "forgot" and stories["worse"]["low"] > 0
    assert after["forgetting_metrics"]["signed_task_forgetting_rates"]["stories"] > 0.2
    json.dumps(framework.generate_evaluation_report())


# Chapter 9.1.1 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comprehensive(base: Base, spoilt: Any) -> ComprehensiveForgettingEvaluator:
    evaluator = ComprehensiveForgettingEvaluator(
        base.model, base.tokenizer, label_texts=["small", "big"], max_new_tokens=12
    )
    evaluator.evaluate_model(base.model, "pretrained", DATASETS, METRICS)
    evaluator.evaluate_model(spoilt, "finetuned", DATASETS, METRICS)
    return evaluator


def test_chapter_9_measures_what_applies_and_says_why_the_rest_does_not(
    base: Base, comprehensive: ComprehensiveForgettingEvaluator
) -> None:
    found = comprehensive.evaluation_results
    assert list(found) == ["pretrained", "finetuned"] and all(list(told) == list(DATASETS) for told in found.values())
    for told in found.values():
        assert {m for m in told["labelled"] if m in METRICS} == {*METRICS} - {"bleu"}
        assert {m for m in told["answered"] if m in METRICS} == {"perplexity", "bleu", "knowledge_retention"}
        assert set(told["故事"]["not_applicable"]) == {"accuracy", "f1", "bleu"}
    assert found["pretrained"]["故事"]["knowledge_retention"] == 1.0
    assert found["pretrained"]["故事"]["calibrated_knowledge_retention"]["mean"] == 1.0
    assert not base.model.training
    ratio = found["finetuned"]["故事"]["perplexity"] / found["pretrained"]["故事"]["perplexity"]
    assert found["finetuned"]["故事"]["knowledge_retention"] == pytest.approx(max(0, 2 - ratio))
    assert found["finetuned"]["故事"]["calibrated_knowledge_retention"]["mean"] == pytest.approx(1 / ratio)


def test_chapter_9_prints_each_figure(base: Base, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = ComprehensiveForgettingEvaluator(base.model, base.tokenizer, max_new_tokens=12)
    told = evaluator.evaluate_model(base.model, "m", {"labelled": LABELLED, "answered": ANSWERED[:1]}, METRICS)
    lines = ["评估模型 m 在数据集 labelled 上的性能..."]
    names = {"perplexity": "困惑度", "accuracy": "准确率", "f1": "F1分数", "knowledge_retention": "知识保留率"}
    lines += [f"  {name}: {told['labelled'][metric]:.4f}" for metric, name in names.items()]
    assert capsys.readouterr().out.splitlines()[:5] == lines
    assert set(evaluator.evaluate_model(base.model, "m", {"a": ANSWERED[:1]})["a"]) >= {"perplexity", "bleu"}
    assert f"  BLEU分数: {told['answered']['bleu']:.4f}" in capsys.readouterr().out


def test_chapter_9_forgetting_rates_are_the_guides(comprehensive: ComprehensiveForgettingEvaluator) -> None:
    before, after = (
        {name: {m: told[name][m] for m in told[name] if m in METRICS} for name in told}
        for told in comprehensive.evaluation_results.values()
    )
    guides = theirs("ComprehensiveForgettingEvaluator")(None, None).calculate_forgetting_rate(before, after)
    check_within(guides, comprehensive.calculate_forgetting_rate(before, after))
    paired = comprehensive.calculate_forgetting_rate(*comprehensive.evaluation_results.values())
    check_within(guides, paired)
    signed = paired["故事"]["signed_perplexity"]
    assert signed["low"] < signed["mean"] < signed["high"] and signed["verdict"] == "forgot"
    assert paired["signed_overall_average"]["low"] < paired["signed_overall_average"]["mean"]


def test_chapter_9_report_and_pictures(
    comprehensive: ComprehensiveForgettingEvaluator, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(comprehensive.generate_evaluation_report("evaluation_report.json"))
    assert json.loads(Path("evaluation_report.json").read_text("utf-8")) == told
    assert told["models_evaluated"] == ["pretrained", "finetuned"]
    assert set(told) == {"models_evaluated", "evaluation_details", "forgetting_rates"}
    assert capsys.readouterr().out == "评估报告已保存到: evaluation_report.json\n"
    comprehensive.visualize_results(["accuracy", "bleu"])
    files = {"accuracy_labelled.png", "bleu_answered.png"}
    assert {file.name for file in Path("visualizations").iterdir()} == files
    lines = capsys.readouterr().out.splitlines()
    assert {line.removeprefix("图表已保存到: visualizations/") for line in lines} == files


# Chapter 9.1.2 ------------------------------------------------------------------------------------------------------

FIELD = (["What does a dog like?", "Where do fish live?"], ["to play with a ball in the park", "in water"])


class Teacher:
    """Writes questions as asked, then answers, and never echoes; fails at a call if told to."""

    def __init__(self, fails_at: int = -1):
        self.prompts: list[str] = []
        self.fails_at = fails_at

    def generate(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if len(self.prompts) - 1 == self.fails_at:
            raise ConnectionError("gone")
        return '["What is RNA?", "What is a gene?"]' if "专业知识问题" in prompt else f"Answer {len(self.prompts)}."


def knowing(base: Base, **settings: Any) -> DomainKnowledgeEvaluator:
    evaluator = DomainKnowledgeEvaluator(base.model, base.tokenizer, max_new_tokens=12, **settings)
    evaluator.add_evaluation_set("生活", *FIELD)
    return evaluator


def test_chapter_9_asks_grades_and_reports(base: Base, spoilt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = knowing(base)
    before, after = evaluator.evaluate_all_domains(), evaluator.evaluate_all_domains(spoilt, 2)
    assert set(before) == {"生活", "overall_average_score"}
    told = before["生活"]
    assert set(told) >= {"domain_name", "total_questions", "average_score", "question_results"}
    keys = {"question", "ground_truth", "generated_answer", "score", "feedback", "raw_score"}
    assert all(set(result) == keys for result in told["question_results"])
    assert evaluator.evaluate_all_domains()["生活"]["question_results"] == told["question_results"]
    assert capsys.readouterr().out.splitlines()[:6] == [
        "已添加 生活 领域的评估集,包含 2 个问题",
        "开始评估模型在 生活 领域的知识,共 2 个问题",
        "评估问题 1/2: What does a dog like?",
        "评估问题 2/2: Where do fish live?",
        f"领域 生活 知识评估完成,平均分数: {told['average_score']:.2f}/1.0",
        f"所有领域的总体平均分数: {told['average_score']:.2f}/1.0",
    ]
    report = json.loads(evaluator.generate_knowledge_retention_report(before, after, "retention.json"))
    assert capsys.readouterr().out == "知识保留报告已保存到: retention.json\n"
    assert json.loads(Path("retention.json").read_text("utf-8")) == report
    assert report["generated_at"] == date.today().isoformat()
    guides = theirs("DomainKnowledgeEvaluator")(None, None).generate_knowledge_retention_report(before, after)
    check_within(json.loads(guides), report)
    assert len(evaluator.evaluate_domain_knowledge("生活", max_questions=1)["question_results"]) == 1
    with pytest.raises(ValueError, match="领域 别的 不存在于评估集中"):
        evaluator.evaluate_domain_knowledge("别的")


def test_chapter_9_sets_are_added_and_loaded_as_in_the_guide(base: Base, capsys: pytest.CaptureFixture[str]) -> None:
    files: dict[str, Any] = {
        "good": {"domain_name": "医学", "questions": ["q"], "ground_truths": ["a"]},
        "unnamed": {"questions": ["q"], "ground_truths": ["a"]},
        "other": {"domain_name": "x"},
        "uneven": {"domain_name": "x", "questions": ["q"], "ground_truths": []},
    }
    for name, value in files.items():
        Path(f"{name}.json").write_text(json.dumps(value))
    told: dict[str, Any] = {}
    for kind in (theirs("DomainKnowledgeEvaluator"), DomainKnowledgeEvaluator):
        evaluator = kind(base.model, base.tokenizer)
        with pytest.raises(ValueError, match="问题数量必须与参考答案数量相同"):
            evaluator.add_evaluation_set("x", ["q"], [])
        loaded = [evaluator.load_evaluation_set_from_json(f"{name}.json") for name in files]
        loaded.append(evaluator.load_evaluation_set_from_json("unnamed.json", "法律"))
        loaded.append(evaluator.load_evaluation_set_from_json("missing.json"))
        lines = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
        told[kind.__module__] = (loaded, evaluator.evaluation_sets, lines)
    first, second = told.values()
    assert first == second and first[0] == [True, False, False, False, True, False]


def test_chapter_9_makes_sets_and_goes_on_where_it_stopped(base: Base, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator, teacher = DomainKnowledgeEvaluator(base.model, base.tokenizer), Teacher(fails_at=2)
    with pytest.raises(ConnectionError):
        evaluator.generate_domain_knowledge_qa("生物", 2, "set.json", generator=teacher)
    assert json.loads(Path("set.json").read_text("utf-8"))["ground_truths"] == ["Answer 2."]
    capsys.readouterr()
    teacher = Teacher()
    made = evaluator.generate_domain_knowledge_qa("生物", 2, "set.json", generator=teacher)
    assert len(teacher.prompts) == 1 and "What is a gene?" in teacher.prompts[0]
    assert made == {
        "domain_name": "生物",
        "questions": ["What is RNA?", "What is a gene?"],
        "ground_truths": ["Answer 2.", "Answer 1."],
    }
    assert json.loads(Path("set.json").read_text("utf-8")) == made
    assert capsys.readouterr().out.splitlines() == [
        "正在为问题生成参考答案...",
        "生成问题2/2的参考答案...",
        "评估集已保存到: set.json",
        "已添加 生物 领域的评估集,包含 2 个问题",
    ]
    evaluator.generate_domain_knowledge_qa("化学", 2, generator=Teacher())
    assert capsys.readouterr().out.splitlines()[:2] == ["正在生成化学领域的问题...", "成功提取了2个问题"]


def test_chapter_9_asks_in_the_guides_words(base: Base) -> None:
    """The prompts are those of the guide, but for the indentation that its code gave them."""
    teacher = Teacher()
    DomainKnowledgeEvaluator(base.model, base.tokenizer).generate_domain_knowledge_qa("法律", 2, generator=teacher)
    text = handed_over("catastrophic-forgetting.md").replace("{domain_name}", "法律").replace("{num_questions}", "2")
    text = text.replace("{question}", "What is RNA?")
    printed = {line.strip() for line in text.splitlines()}
    for prompt in teacher.prompts[:2]:
        assert {line.strip() for line in prompt.splitlines()} <= printed


# Chapter 9.2 --------------------------------------------------------------------------------------------------------


def test_chapter_9_monitor_prints_logs_and_writes_what_the_guide_does(
    base: Base, spoilt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}
    guides = theirs("ForgettingMonitor", ComprehensiveForgettingEvaluator=ComprehensiveForgettingEvaluator)
    for label, kind in (("theirs", guides), ("ours", ForgettingMonitor)):
        monitor = kind(base.model, base.tokenizer, {"故事": OLD[:6]})
        assert monitor.visualize_forgetting_trends() is False
        monitor.monitor(base.model, 1, 0.5, save_checkpoint=False)
        monitor.monitor(spoilt, 2, 1.0, checkpoint_dir=label)
        report = json.loads(monitor.generate_monitoring_report(f"{label}.json"))
        assert json.loads(Path(f"{label}.json").read_text("utf-8")) == report
        told[label] = (report, capsys.readouterr().out.replace("theirs", "ours"))
    check_within(told["theirs"][0], told["ours"][0])
    assert told["ours"][1] == told["theirs"][1]
    assert "警告: 遗忘率过高,考虑调整训练参数或使用正则化方法\n" in told["ours"][1]
    assert {file.name for file in Path("ours").iterdir()} == {file.name for file in Path("theirs").iterdir()}
    assert (
        json.loads(Path("ours/monitoring_log_step_2_epoch_1.0.json").read_text("utf-8")) == report["monitoring_logs"][1]
    )
    kept = dict(load_base("ours/model_step_2_epoch_1.0").model.named_parameters())
    assert all(torch.equal(p, kept[name]) for name, p in spoilt.named_parameters())
    assert monitor.visualize_forgetting_trends() is True and Path("forgetting_trends.png").stat().st_size > 1000
    assert capsys.readouterr().out == "遗忘趋势图已保存到: ./forgetting_trends.png\n"


def test_chapter_9_callback_watches_any_trainer_and_changes_nothing(base: Base, tmp_path: Path) -> None:
    """With dropout, whose draws a look must not disturb; the base is the very model that is trained."""

    def trained(watched: bool) -> tuple[dict[str, Any], ForgettingMonitor]:
        torch.manual_seed(0)
        model = small()
        for layer in model.model.layers:
            layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(0.2))
        monitor = ForgettingMonitor(model, base.tokenizer, {"故事": OLD[:4], "labelled": LABELLED})
        looks = [monitor.create_callback(2, save_checkpoint=False)] if watched else []
        args = arguments(tmp_path, max_steps=4, learning_rate=0.5)
        Trainer(model, args, train_dataset=ROWS, callbacks=looks).train()  # type: ignore[arg-type]
        assert model.training
        return values(model), monitor

    plain, _ = trained(False)
    moved, monitor = trained(True)
    assert all(torch.equal(value, moved[name]) for name, value in plain.items())
    assert [log["step"] for log in monitor.monitoring_logs] == [2, 4]
    assert monitor.baseline_results is not None
    first, last = (log["evaluation_results"]["故事"]["perplexity"] for log in monitor.monitoring_logs)
    assert len({first, last, monitor.baseline_results["故事"]["perplexity"]}) == 3
    assert math.isfinite(monitor.monitoring_logs[-1]["forgetting_rates"]["overall_average"])


def test_chapter_9_callback_saves_under_the_guides_names(base: Base, tmp_path: Path) -> None:
    model = small()
    monitor = ForgettingMonitor(small(), base.tokenizer, {"故事": OLD[:4]})
    args = arguments(tmp_path / "out", max_steps=3)
    Trainer(model, args, train_dataset=ROWS, callbacks=[monitor.create_callback(eval_interval=3)]).train()  # type: ignore[arg-type]
    assert {file.name for file in Path("monitor_checkpoints").iterdir()} == {
        "model_step_3_epoch_1.0",
        "monitoring_log_step_3_epoch_1.0.json",
    }
