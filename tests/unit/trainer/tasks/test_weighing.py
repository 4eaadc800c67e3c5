from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from troika_api.v1alpha1.method import Loss
from troika_trainer.errors import ConfigError
from troika_trainer.tasks.weighing import (
    DecisionWeighing,
    Weighing,
    class_weights,
    decision_weights,
)

COUNTS = {"ham": 90, "spam": 10}


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, 2, generator=generator), torch.tensor([0, 1, 0, 0, 1, 0, 0, 1])


def test_label_smoothing_is_that_of_torch() -> None:
    logits, labels = logits_and_labels()
    ours = Weighing(Loss(label_smoothing=0.2)).loss(logits, labels, training=True) / 8
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(label_smoothing=0.2)(logits, labels))


def test_label_smoothing_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    logs = logits.log_softmax(-1)[0]
    expected = -(0.9 * logs[0] + 0.1 * logs.mean())
    ours = Weighing(Loss(label_smoothing=0.1)).loss(logits, torch.tensor([0]), training=True)
    torch.testing.assert_close(ours, expected)


def test_evaluation_measures_the_plain_loss() -> None:
    logits, labels = logits_and_labels()
    weighing = Weighing(Loss(label_smoothing=0.2, class_weighting="Balanced"), COUNTS)
    ours = weighing.loss(logits, labels, training=False)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(reduction="sum")(logits, labels))


def test_balanced_classes_weigh_the_same_together_and_1_on_average() -> None:
    weights = class_weights(Loss(class_weighting="Balanced"), COUNTS)
    assert weights is not None
    assert (weights * torch.tensor([90.0, 10.0])).tolist() == pytest.approx([50.0, 50.0])


def test_named_weights_keep_their_ratio_and_have_a_mean_of_1() -> None:
    weights = class_weights(Loss(class_weights={"spam": 6.0}), COUNTS)
    assert weights is not None
    assert float(weights[1] / weights[0]) == pytest.approx(6.0)
    assert float((weights * torch.tensor([0.9, 0.1])).sum()) == pytest.approx(1.0)


def test_weights_change_the_loss_as_those_of_torch_do() -> None:
    logits, labels = logits_and_labels()
    weights = class_weights(Loss(class_weights={"spam": 6.0}), COUNTS)
    ours = Weighing(Loss(class_weights={"spam": 6.0}), COUNTS).loss(logits, labels, training=True)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(weights, reduction="sum")(logits, labels))


@pytest.mark.parametrize("label", [0, 1])
def test_a_smoothed_label_stays_the_likeliest_class_however_rare_the_other_is(label: int) -> None:
    spec = Loss(class_weighting="Balanced", label_smoothing=0.05)
    weighing = Weighing(spec, {"common": 1000, "rare": 1})
    logits = torch.zeros(1, 2, requires_grad=True)
    best = torch.optim.LBFGS([logits], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        best.zero_grad()
        found = weighing.loss(logits, torch.tensor([label]), training=True)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    best.step(loss)  # type: ignore[no-untyped-call]
    assert int(logits.argmax()) == label
    # The optimum is the smoothed label itself, whatever the weight.
    assert float(logits.softmax(-1)[0, label].detach()) == pytest.approx(0.975, abs=1e-3)


def test_weights_multiply_the_smoothed_loss_of_an_example() -> None:
    logits, labels = logits_and_labels()
    spec = Loss(class_weights={"spam": 6.0}, label_smoothing=0.1)
    weights = class_weights(spec, COUNTS)
    assert weights is not None
    logs = logits.log_softmax(-1)
    each = -(0.9 * logs[torch.arange(8), labels] + 0.1 * logs.mean(-1))
    ours = Weighing(spec, COUNTS).loss(logits, labels, training=True)
    torch.testing.assert_close(ours, (weights[labels] * each).sum())


def test_no_wish_no_weights() -> None:
    assert class_weights(Loss(), COUNTS) is None
    assert class_weights(Loss(class_weighting="Uniform"), COUNTS) is None


def test_a_weight_for_a_class_that_does_not_occur_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no class 'Spam'; it has ham, spam"):
        class_weights(Loss(class_weights={"Spam": 2.0}), COUNTS)


def test_many_labels_are_smoothed_towards_a_half() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    ours = DecisionWeighing(Loss(label_smoothing=0.2), COUNTS, 100).loss(
        logits, labels, training=True
    )
    expected = nn.BCEWithLogitsLoss()(logits, torch.tensor([[0.9, 0.1]]))
    torch.testing.assert_close(ours, expected)


MANY = {"usual": 9_000, "seldom": 10}
ROWS = 10_000


def many_labels() -> torch.Tensor:
    """10,000 rows with the classes of `MANY`."""
    labels = torch.zeros(ROWS, 2, dtype=torch.int64)
    labels[:9_000, 0] = 1
    labels[:10, 1] = 1
    return labels


def test_balanced_decisions_give_rows_with_and_without_a_class_the_same_weight() -> None:
    weights = decision_weights(Loss(class_weighting="Balanced"), MANY, ROWS)
    assert weights is not None
    without, with_it = weights
    assert (with_it * torch.tensor([9_000, 10])).tolist() == pytest.approx([5_000, 5_000])
    assert (without * torch.tensor([1_000, 9_990])).tolist() == pytest.approx([5_000, 5_000])


def test_the_balanced_loss_of_many_labels_starts_where_the_plain_one_does() -> None:
    weighing = DecisionWeighing(Loss(class_weighting="Balanced"), MANY, ROWS)
    logits = torch.zeros(ROWS, 2)
    mean = weighing.loss(logits, many_labels(), training=True) / ROWS
    assert float(mean) == pytest.approx(0.6931, abs=1e-3)  # ln 2 for each decision


def test_where_nothing_tells_rows_apart_balanced_decisions_are_even() -> None:
    """The best constant logit is 0, not the log odds of a class with 10 of 10,000 rows."""
    logits = torch.zeros(2, requires_grad=True)
    weighing = DecisionWeighing(Loss(class_weighting="Balanced"), MANY, ROWS)
    weighing.loss(logits.expand(ROWS, 2), many_labels(), training=True).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0.0, 0.0], abs=0.1)


def test_one_row_counts_at_most_a_thousand_times_another() -> None:
    weights = decision_weights(Loss(class_weighting="Balanced"), {"all": 10**6, "one": 1}, 10**6)
    assert weights is not None
    without, with_it = weights
    assert float(with_it[1] / without[1]) == pytest.approx(1000.0)
    assert float(with_it[0]) == pytest.approx(1.0)  # no row is without it
    assert torch.isfinite(weights).all()


def test_named_weights_of_decisions_hold_for_rows_of_both_kinds_with_a_mean_of_1() -> None:
    weights = decision_weights(Loss(class_weights={"seldom": 3.0}), MANY, ROWS)
    assert weights is not None
    assert weights.tolist() == [[0.5, 1.5], [0.5, 1.5]]


def test_a_weight_for_a_decision_that_does_not_occur_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no class 'never'; it has usual, seldom"):
        decision_weights(Loss(class_weights={"never": 2.0}), MANY, ROWS)


def test_smoothed_and_balanced_decisions_keep_their_sign() -> None:
    spec = Loss(class_weighting="Balanced", label_smoothing=0.05)
    weighing = DecisionWeighing(spec, MANY, ROWS)
    wanted = torch.tensor([[0.975, 0.025]])
    best = wanted.logit().requires_grad_()
    weighing.loss(best, torch.tensor([[1, 0]]), training=True).backward()  # type: ignore[no-untyped-call]
    assert best.grad is not None
    assert best.grad.tolist()[0] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_evaluation_measures_the_plain_loss_of_decisions() -> None:
    weighing = DecisionWeighing(Loss(class_weighting="Balanced", label_smoothing=0.2), MANY, ROWS)
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 0]])
    expected = nn.BCEWithLogitsLoss()(logits, labels.float())
    torch.testing.assert_close(weighing.loss(logits, labels, training=False), expected)


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes of every copy to another device whether the host goes on meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.go_on: list[bool] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and "device" in kwargs:
            self.go_on.append(bool(kwargs.get("non_blocking")))
        return func(*args, **kwargs)


def test_no_pass_waits_for_the_weights_of_the_classes() -> None:
    """The device is a thought one, which no number leaves: each copy to it is seen all the same."""
    spec = Loss(class_weighting="Balanced")
    logits = torch.empty(8, 2, device="meta")
    with Copies() as copies:
        Weighing(spec, COUNTS).loss(
            logits, torch.empty(8, dtype=torch.int64, device="meta"), training=True
        )
        DecisionWeighing(spec, COUNTS, 100).loss(
            logits, torch.empty(8, 2, dtype=torch.int64, device="meta"), training=True
        )
    assert copies.go_on == [True, True]
