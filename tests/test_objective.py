import math

import pytest
import torch
import torch.nn.functional as F

from isospike.objectives import OBJECTIVES, CrossEntropySpec, TETSpec

LOGITS = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])  # T=2, B=1, K=2
LABEL = torch.tensor([0])
EVERY = pytest.mark.parametrize("kind", OBJECTIVES)


def log_loss(margin):
    return math.log(1 + math.exp(-margin))


def test_cross_entropy_is_of_the_mean_logits():
    loss = CrossEntropySpec(kind="cross_entropy").loss(LOGITS, LABEL)
    assert loss.item() == pytest.approx(log_loss(2))


def test_tet_is_the_mean_of_the_cross_entropies_and_a_pull_to_the_target():
    loss = TETSpec(kind="tet", weight=0.25, target=2.0).loss(LOGITS, LABEL)
    pull = (1 + 4 + 1 + 4) / 4
    assert loss.item() == pytest.approx(0.75 * (log_loss(1) + log_loss(3)) / 2 + 0.25 * pull)


@EVERY
def test_shares_as_targets_and_label_smoothing(kind):
    """Smoothing of 0.2 over two classes is a target of 0.9 and 0.1."""
    row = OBJECTIVES[kind]
    logits = torch.randn(3, 5, 2)
    labels = torch.tensor([0, 1, 1, 0, 1])
    smoothed = row(kind=kind, label_smoothing=0.2).loss(logits, labels)
    shares = 0.8 * F.one_hot(labels, 2) + 0.1
    torch.testing.assert_close(smoothed, row(kind=kind).loss(logits, shares))


WEIGHTS = torch.tensor([0.5, 2.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["cross_entropy", "tet"])
def test_class_weights_by_hand_of_labels_and_of_shares(kind, smoothing):
    logits = torch.randn(3, 5, 2)
    labels = torch.tensor([0, 1, 1, 0, 1])
    shares = F.one_hot(labels, 2) * (1 - smoothing) + smoothing / 2
    own = logits.mean(0, keepdim=True) if kind == "cross_entropy" else logits
    by_hand = -(WEIGHTS * shares * own.log_softmax(-1)).sum(-1).mean()
    options = {} if kind == "cross_entropy" else {"weight": 0.0}
    spec = OBJECTIVES[kind](kind=kind, label_smoothing=smoothing, **options)
    torch.testing.assert_close(spec.loss(logits, labels, WEIGHTS), by_hand)
    torch.testing.assert_close(spec.loss(logits, F.one_hot(labels, 2).float(), WEIGHTS), by_hand)


@EVERY
def test_weights_of_1_change_nothing_and_parts_of_a_batch_add_up(kind):
    logits, labels = torch.randn(2, 6, 2, requires_grad=True), torch.tensor([0, 0, 0, 0, 1, 1])
    spec = OBJECTIVES[kind](kind=kind)
    torch.testing.assert_close(spec.loss(logits, labels, torch.ones(2)), spec.loss(logits, labels))
    parts = [spec.loss(logits[:, part], labels[part], WEIGHTS) for part in (slice(0, 3), slice(3, 6))]
    whole = spec.loss(logits, labels, WEIGHTS)
    torch.testing.assert_close(sum(parts) / 2, whole)
    (gradient,) = torch.autograd.grad(whole, logits)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(1).all()  # every time step learns
