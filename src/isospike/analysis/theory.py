"""What the theory of block dynamical isometry says, one function each: components, rules, units.

Of a Jacobian J with m outputs and ``A = J J^T``: ``phi`` is the mean of A's eigenvalues, ``trace(A) / m``, and
``varphi`` their variance, ``trace(A^2) / m - phi^2``. A network whose blocks all have phi near 1 and varphi near 0
neither blows its gradient up nor lets it vanish, at any depth.

Sources: components and rules: Chen et al. 2020, "A Comprehensive and Modularized Statistical Framework for Gradient
Norm Equality in Deep Neural Networks", TPAMI, arXiv:2001.00254, with the table of components of Yao et al. 2023,
"Attention Spiking Neural Networks", TPAMI, arXiv:2209.13929; units: Hu et al. 2024, arXiv:2112.08954. The neuron, the
varphi of convolutions and the units of other topologies are derived here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Mean and variance of the eigenvalues of ``J J^T``."""

    phi: float
    varphi: float


class Part(NamedTuple):
    """A component of a chain: its moments, and how many numbers it puts out."""

    moments: Moments
    size: int


IDENTITY = Moments(1.0, 0.0)


def rectifier(open_share: float) -> Moments:
    """Return the moments of a ReLU with this share of its inputs above 0 (Yao et al. 2023, table 8): p and p - p^2."""
    return Moments(open_share, open_share - open_share**2)


def neuron(open_share: float, width: float = 1.0) -> Moments:
    """Return those of one step of a neuron with a rectangle, p potentials inside: p/a^2, (p - p^2)/a^4.

    Derived: the Jacobian is diagonal and holds 1/a or 0. What reaches a step through the potential is left out.
    """
    return Moments(open_share / width**2, (open_share - open_share**2) / width**4)


def slopes(derivatives: Tensor) -> Moments:
    """Return those of any element-wise function, the mean and variance of its squared derivatives."""
    squares = derivatives.double().square()
    return Moments(squares.mean().item(), squares.var(correction=0).item())


def convolution(
    in_channels: int, out_channels: int, kernel: Sequence[int], variance: float, *, stride: int = 1
) -> Moments:
    """Return those of independent weights far from the border: c_in k_h k_w sigma^2 (Yao et al. 2023, table 8).

    The variance is derived: every frequency sees a random matrix of c_out rows, and c_in columns for each of the
    frequencies that the stride folds into one, which are as alike as the few weights of the kernel make them.
    """
    phi = in_channels * math.prod(kernel) * variance
    return Moments(phi, phi**2 * out_channels / in_channels * _likeness(kernel, stride))


def normed_convolution(
    in_moment: float, out_moment: float, in_channels: int, out_channels: int, kernel: Sequence[int], *, stride: int = 1
) -> Moments:
    """Return those of a convolution and its norm: the ratio alpha_out / alpha_in of second moments (Chen et al. 2020).

    The norm takes the means of its channels away, so both moments are around them (derived); for spikes of rate r the
    first is r (1 - r). Neighbours count as independent, which those of a picture are not. The variance as of
    ``convolution``.
    """
    phi = out_moment / in_moment if in_moment else 0.0
    return Moments(phi, phi**2 * out_channels / in_channels * _likeness(kernel, stride))


def _likeness(kernel: Sequence[int], stride: int) -> float:
    """Return the share of all pairs of weights along each side that lie a multiple of the stride apart."""
    share = 1.0
    for side in kernel:
        alike = [len(range(start, side, stride)) for start in range(stride)]
        share *= sum(n**2 for n in alike) / side**2
    return share


def orthogonal(gain: float = 1.0) -> Moments:
    """Return those of an orthogonal matrix times a gain (Yao et al. 2023, table 8): gain^2 and 0."""
    return Moments(gain**2, 0.0)


def average_pool(kernel: int) -> Moments:
    """Return those of means without overlap (derived): rows at right angles, each of squared length 1/k^2."""
    return Moments(1 / kernel**2, 0.0)


def serial(parts: Sequence[Part]) -> Moments:
    """Return those of blocks one after the other (Chen et al. 2020, multiplication).

    phi is the product; varphi is phi^2 times the sum of varphi_i / phi_i^2, each times m_last / m_i.
    """
    phi = math.prod(part.moments.phi for part in parts)
    if not parts or phi == 0:
        return Moments(phi, 0.0)
    last = parts[-1].size
    spread = sum(last / part.size * part.moments.varphi / part.moments.phi**2 for part in parts)
    return Moments(phi, phi**2 * spread)


def parallel(branches: Sequence[Moments]) -> Moments:
    """Return those of independent blocks that are added, at most one with a mean Jacobian (Chen et al. 2020).

    phi is the sum; varphi is phi^2 plus the sum of varphi_i - phi_i^2.
    """
    phi = sum(branch.phi for branch in branches)
    return Moments(phi, phi**2 + sum(branch.varphi - branch.phi**2 for branch in branches))


def scaled(moments: Moments, factor: float) -> Moments:
    """Return those of the block times a constant."""
    return Moments(moments.phi * factor**2, moments.varphi * factor**4)


def membrane_unit(zeta: float, inner: Moments) -> Moments:
    """Return phi of an MS unit of unchanged shape: 1 + zeta^2 phi(inner), zeta its last norm's weight (Hu et al. 2024).

    With zeta 0 it is exactly the identity: 1 and 0.
    """
    return parallel([IDENTITY, scaled(inner, zeta)])


def gated_unit(gate: Moments, branch: Moments) -> Moments:
    """Return phi of a vanilla unit of unchanged shape: p (1 + phi(branch)), p that of the neuron behind the sum.

    Derived. The neuron stands on the identity path too, so the gradient is multiplied by p in every unit.
    """
    return serial([Part(parallel([IDENTITY, branch]), 1), Part(gate, 1)])


def spike_added_unit(gate: Moments, inner: Moments) -> Moments:
    """Return phi of a SEW unit of unchanged shape with join "add": 1 + p phi(inner), the neuron within the branch.

    Derived; ``inner`` is the branch before its last neuron.
    """
    return parallel([IDENTITY, serial([Part(inner, 1), Part(gate, 1)])])
