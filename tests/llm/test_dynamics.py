"""The closed formula of forgetting: its figures by hand, its limits, and what it says of size and similarity."""

from __future__ import annotations

import pytest

from holdfast._errors import BadInput
from holdfast.llm import ForgettingDynamicsModel, simulate_forgetting_scenarios


def test_an_update_is_the_formula() -> None:
    model = ForgettingDynamicsModel(4, 0.8, forgetting_rate=0.2)
    told = model.update_knowledge(training_intensity=0.5, data_similarity=0.4, epochs=2)
    rate = 0.2 * 0.5 * 0.6 * (0.8 / 2)
    assert model.param_sensitivity == pytest.approx(0.4)
    assert told["effective_forgetting_rate"] == pytest.approx(rate)
    assert told["knowledge_loss"] == pytest.approx(0.8 * rate * 2)
    assert told["new_knowledge_gain"] == pytest.approx(0.5 * 0.4 * 0.3 * 2)
    assert told["current_knowledge"] == pytest.approx(0.8 - 0.8 * rate * 2 + 0.12)
    assert told["forgetting_degree"] == 0.0
    assert model.get_knowledge_trajectory() == [0.8, told["current_knowledge"]] == model.knowledge_history


def test_epoch_by_epoch_it_is_exponential_decay_towards_the_balance_of_gain_and_loss() -> None:
    model = ForgettingDynamicsModel(1, 0.9, forgetting_rate=1.0)
    rate, gain = 0.5 * 0.9 * 0.8, 0.5 * 0.1 * 0.3
    for _ in range(12):
        model.update_knowledge(0.5, 0.1, epochs=1)
    balance = gain / rate
    expected = [balance + (0.9 - balance) * (1 - rate) ** n for n in range(13)]
    assert model.get_knowledge_trajectory() == pytest.approx(expected, abs=0.01)  # the cap on gain bites at the start


def test_larger_models_and_liker_data_forget_less(capsys: pytest.CaptureFixture[str]) -> None:
    models = simulate_forgetting_scenarios()
    assert capsys.readouterr().out.startswith("\n第1轮微调:\n\n高相似度数据微调结果:\n7B模型:遗忘程度=")
    rates = {
        size: [1 - m.get_knowledge_trajectory()[1] / 0.85 for m in of_size.values()] for size, of_size in models.items()
    }
    assert all(len(m.get_knowledge_trajectory()) == 11 for of_size in models.values() for m in of_size.values())
    assert rates[7][2] > rates[70][2] > rates[175][2] and rates[7][2] > rates[7][1] > rates[7][0]


@pytest.mark.parametrize(
    ("given", "update", "match"),
    [
        ((0, 0.5), (0.5, 0.5, 1), "more than 0 billion"),
        ((7, 1.5), (0.5, 0.5, 1), "initial_knowledge is a share"),
        ((7, 0.5, -1), (0.5, 0.5, 1), "forgetting rate"),
        ((7, 0.5), (1.1, 0.5, 1), "training_intensity is a share"),
        ((7, 0.5), (0.5, -0.1, 1), "data_similarity is a share"),
        ((7, 0.5), (0.5, 0.5, -1), "epochs is at least 0"),
        ((7, 0.5), (0.5, 0.5, float("nan")), "epochs is at least 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(given: tuple[float, ...], update: tuple[float, ...], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        ForgettingDynamicsModel(*given).update_knowledge(*update)
