import math

import pytest
import torch
from torch import nn

from isospike.errors import ShapeError
from isospike.layers import BatchNorm, one_statistics_update


def batch(n=12, dtype=torch.float64):
    return torch.randn(n, 3, 4, 5, dtype=dtype) * 2 + 1


@pytest.mark.parametrize("alpha", [1.0, 1 / math.sqrt(2)])
def test_tdbn_by_its_formula(alpha):
    """y = weight * alpha * V * (x - mean) / sqrt(var + eps) + bias, mean and var over time, batch and space."""
    norm = BatchNorm(3, scale=alpha * 0.5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    x = batch()
    y = norm(x)
    for c in range(3):
        values = x[:, c].flatten()
        mean = values.sum() / len(values)
        var = ((values - mean) ** 2).sum() / len(values)
        expected = norm.weight[c] * alpha * 0.5 * (x[:, c] - mean) / torch.sqrt(var + 1e-5) + norm.bias[c]
        torch.testing.assert_close(y[:, c], expected)
        unbiased = var * len(values) / (len(values) - 1)
        torch.testing.assert_close(norm.running_mean[c], 0.1 * mean)
        torch.testing.assert_close(norm.running_var[c], 0.9 + 0.1 * unbiased)


def test_with_scale_1_it_is_pytorchs_batch_norm_in_training_and_in_eval():
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for _ in range(3):
        x = batch()
        torch.testing.assert_close(ours(x), theirs(x))
    ours.eval()
    theirs.eval()
    x = batch()
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_scale_is_neither_trained_nor_decayed():
    norm = BatchNorm(3, scale=0.5)
    assert {name for name, _ in norm.named_parameters()} == {"weight", "bias"}
    x = batch(dtype=torch.float32)
    norm(x)[0, 0, 0, 0].backward()
    plain = BatchNorm(3)
    plain(x)[0, 0, 0, 0].backward()
    torch.testing.assert_close(norm.weight.grad, 0.5 * plain.weight.grad)


def test_a_static_image_counts_once_and_is_normalised_as_its_copies_are():
    once, copies = BatchNorm(3).double(), BatchNorm(3).double()
    x = batch(4)
    y = once(x)
    torch.testing.assert_close(y.repeat(5, 1, 1, 1), copies(x.repeat(5, 1, 1, 1)))
    torch.testing.assert_close(once.running_mean, copies.running_mean)


def test_running_statistics_of_accumulated_batches_are_those_of_the_undivided_batch():
    whole, parts = BatchNorm(3).double(), BatchNorm(3).double()
    x = batch(12)
    whole(x)
    with one_statistics_update():
        for chunk in x.split((5, 4, 3)):
            parts(chunk)
        assert (parts.running_mean == 0).all()
    torch.testing.assert_close(parts.running_mean, whole.running_mean)
    torch.testing.assert_close(parts.running_var, whole.running_var)
    parts(x)
    whole(x)
    torch.testing.assert_close(parts.running_var, whole.running_var)  # back to one update per forward


def test_a_failed_accumulation_changes_no_statistics():
    norm = BatchNorm(3).double()

    def fail():
        with one_statistics_update():
            norm(batch())
            norm(torch.zeros(1, 3, 1, 1))

    with pytest.raises(ShapeError):
        fail()
    assert (norm.running_mean == 0).all()
    norm(batch())
    assert (norm.running_mean != 0).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 3, 3), r"takes \[T\*B, 3, H, W\], got \[2, 4, 3, 3\]"),
        ((2, 3, 3), r"got \[2, 3, 3\]"),
        ((1, 3, 1, 1), "batch statistics need two values per channel"),
    ],
)
def test_wrong_shapes_are_refused(shape, message):
    with pytest.raises(ShapeError, match=message):
        BatchNorm(3)(torch.zeros(shape))


def test_channels_last_stays_channels_last():
    x = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    for norm in (BatchNorm(3, scale=0.5), BatchNorm(3).eval()):
        assert norm(x).is_contiguous(memory_format=torch.channels_last)
