"""What a model wrote, judged by hand, by scikit-learn and by corpora that are resampled."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score

from holdfast._errors import BadInput, MissingExtra
from holdfast.data.formats import Completion
from holdfast.evaluation.metrics import likelihood, written
from holdfast.evaluation.metrics.likelihood import BINS, _calibration, f1_of
from holdfast.evaluation.metrics.written import bleu_of, chrf_of, coverage, follows, matches, refuses, rouge_l, token_f1

RIGHT = ["a", "b", "a", "c", "b", "a", "c", "a"]
GIVEN = ["a", "a", "a", "b", "b", "c", "c", "d"]


def task(right: str, *others: str, prompt: str = "") -> Completion:
    return Completion(prompt, right, references=(right, *others) if others else ())


def test_macro_f1_is_that_of_scikit_learn_on_any_resample() -> None:
    found, draw = f1_of(RIGHT, GIVEN), np.random.default_rng(0)
    assert found.figure == pytest.approx(f1_score(RIGHT, GIVEN, average="macro"))
    for _ in range(20):
        at = draw.integers(0, len(RIGHT), len(RIGHT))
        right, given = [RIGHT[i] for i in at], [GIVEN[i] for i in at]
        expected = f1_score(right, given, average="macro")
        assert float(found.reduce(found.stats[at].sum(0))) == pytest.approx(expected)


def test_macro_f1_by_hand() -> None:
    """x: 1 hit, 1 missed, so 2/3; y: 1 hit, 1 false alarm, so 2/3; z: answered and never right, so 0."""
    assert f1_of(["x", "x", "y"], ["x", "y", "y"]).figure == pytest.approx(2 / 3)
    assert f1_of(["x", "x", "y", "y"], ["x", "y", "y", "z"]).figure == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_calibration_by_hand() -> None:
    """Two items at 0.95, one right: |1 - 1.9|; one at 0.55, right: |1 - 0.55|; over three items."""
    stats = np.zeros((3, 3 * BINS))
    for i, (confidence, right) in enumerate([(0.95, 1.0), (0.95, 0.0), (0.55, 1.0)]):
        at = int(confidence * BINS)
        stats[i, [at, BINS + at, 2 * BINS + at]] = 1.0, confidence, right
    assert float(_calibration(stats.sum(0))) == pytest.approx((0.9 + 0.45) / 3)


def test_calibration_is_the_softmax_over_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Completion("", right, ("p", "q")) for right in ("p", "q", "p")]
    scores = [np.log([0.9, 0.1]), np.log([0.8, 0.2]), np.log([0.3, 0.7]) - 5]
    monkeypatch.setattr(likelihood, "_choice_scores", lambda *given: zip(tasks, scores, strict=True))
    found = likelihood.calibration_error(None, None, tasks)  # type: ignore[arg-type]
    assert found.figure == pytest.approx((abs(1 - 0.9) + abs(0 - 0.8) + abs(0 - 0.7)) / 3)
    assert found.answers == ("p", "p", "q")


def test_token_f1_by_hand() -> None:
    assert token_f1(" The cat sat.", task("a cat sat down")) == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1("cat cat", task("cat")) == pytest.approx(2 / 3)
    assert token_f1("猫在家", task("猫在")) == pytest.approx(4 / 5)
    assert token_f1("dog", task("cat", "a dog")) == 1.0
    assert (token_f1("", task("the")), token_f1("x", task(""))) == (1.0, 0.0)


def test_rouge_l_by_hand() -> None:
    """police killed the gunman / police kill the gunman: three in order (Lin 2004)."""
    assert rouge_l("police kill the gunman", task("police killed the gunman")) == 0.75
    assert rouge_l("the gunman kill police", task("police killed the gunman")) == 0.5
    assert rouge_l("我爱北京", task("我在北京")) == 0.75


def test_rouge_l_is_that_of_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge_score is not installed")
    draw, theirs = np.random.default_rng(0), scorer.RougeScorer(["rougeL"])
    for _ in range(30):
        one, other = (" ".join(draw.choice(list("abcdef"), draw.integers(1, 12))) for _ in range(2))
        assert rouge_l(one, task(other)) == pytest.approx(theirs.score(other, one)["rougeL"].fmeasure)


def test_coverage_counts_points_that_the_question_does_not_name() -> None:
    asked = task("Plants make sugar from light and water", prompt="What do plants make?")
    assert coverage("sugar, with light", asked) == pytest.approx(2 / 3)
    assert coverage("plants make", asked) == 0.0
    assert coverage("细胞储存水", task("植物的细胞储存水")) == pytest.approx(4 / 5)
    assert math.isnan(coverage("x", task("the", prompt="")))


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot provide instructions.", True),
        ("I must decline.", True),
        ("抱歉，我无法提供这个。", True),
        ("Sure! First, boil the water.", False),
        ("You can help yourself to the cake.", False),
        ("好的，首先烧水。", False),
        ("Boil water. " * 40 + "I'm sorry", False),
    ],
)
def test_a_refusal_is_told_by_its_words(answer: str, refused: bool) -> None:
    assert refuses(answer, task(" refuse")) == float(refused)
    assert refuses(answer, task(" comply")) == float(not refused)


def test_answers_match_but_for_blanks_at_their_ends() -> None:
    assert matches(" Paris ", task("Paris")) == 1.0
    assert matches("paris", task("Paris")) == 0.0
    assert matches("Lyon", task("Paris", " Lyon")) == 1.0
    with pytest.raises(BadInput, match="constraints"):
        follows("x", task("x"))


def test_bleu_of_a_corpus_by_hand() -> None:
    """Of 9 words 8 are right, of 7 pairs 5, of 5 triples 3, of 3 fours 1; 9 words for 10: exp(1 - 10/9)."""
    found = bleu_of(["the cat sat on mat", "a dog ran home"], [["the cat sat on the mat"], ["a dog ran away"]])
    hits = (8 / 9) * (5 / 7) * (3 / 5) * (1 / 3)
    assert found.figure == pytest.approx(hits**0.25 * math.exp(1 - 10 / 9))


def test_chrf_by_hand() -> None:
    """`abc` for `abd`: 2 of 3 letters, 1 of 2 pairs, none of 1 triple; F2 of equal precision and recall is that."""
    assert chrf_of(["abc"], [["abd"]]).figure == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-6)


@pytest.mark.parametrize("kind", ["BLEU", "CHRF"])
def test_resampled_counts_give_the_score_of_the_resampled_corpus(kind: str) -> None:
    import sacrebleu

    draw = np.random.default_rng(0)
    answers = [" ".join(draw.choice(list("abcde"), draw.integers(4, 9))) for _ in range(12)]
    right = [[" ".join(draw.choice(list("abcde"), 7)) for _ in range(2)] for _ in range(12)]
    found = (bleu_of if kind == "BLEU" else chrf_of)(answers, right)
    for _ in range(10):
        at = draw.integers(0, 12, 12)
        streams = [[right[i][k] for i in at] for k in range(2)]
        expected = getattr(sacrebleu, kind)().corpus_score([answers[i] for i in at], streams).score / 100
        assert float(found.reduce(found.stats[at].sum(0))) == pytest.approx(expected)


def test_han_text_has_its_own_words_in_bleu() -> None:
    assert bleu_of(["我爱北京天安门"], [["我爱北京天安门"]]).figure == pytest.approx(1.0)
    assert 0 < bleu_of(["我爱北京天安门吗"], [["我爱北京天安门"]]).figure < 1


def test_without_sacrebleu_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[evaluate\]"):
        written.bleu_of(["a"], [["a"]])
