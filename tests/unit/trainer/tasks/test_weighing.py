import pytest
import torch
from torch import nn

from troika_api.v1alpha1.method import Loss
from troika_trainer.errors import ConfigError
from troika_trainer.tasks.weighing import Weighing, class_weights

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
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    ours = Weighing(Loss(label_smoothing=0.2)).many(logits, labels, training=True)
    expected = nn.BCEWithLogitsLoss()(logits, torch.tensor([[0.9, 0.1]]))
    torch.testing.assert_close(ours, expected)
