"""Networks whose modules bear the names of the authors' code, written from their papers' equations: names, not code.

Widths are free, so that the tests are quick. Inputs are static images ``[B, 3, H, W]``, outputs ``[B, classes]``.
"""

import torch
from torch import nn

T = 3


def over_time(layer, x):
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class QuarterLIF(nn.Module):
    """u[t] = u[t-1] (1 - s[t-1]) / 4 + x[t]; s = u > 1/2."""

    def forward(self, x):
        u = s = torch.zeros_like(x[0])
        spikes = []
        for x_t in x:
            u = u * (1 - s) / 4 + x_t
            s = (u > 0.5).to(x.dtype)
            spikes.append(s)
        return torch.stack(spikes)


class UnitIF(nn.Module):
    """u[t] = u[t-1] (1 - s[t-1]) + x[t]; s = u >= 1."""

    def forward(self, x):
        u = s = torch.zeros_like(x[0])
        spikes = []
        for x_t in x:
            u = u * (1 - s) + x_t
            s = (u >= 1).to(x.dtype)
            spikes.append(s)
        return torch.stack(spikes)


# MS-ResNet ------------------------------------------------------------------------------------------------------------


class TimeConv(nn.Conv2d):
    def forward(self, x):
        return over_time(super().forward, x)


class TimeNorm(nn.Module):
    """A BatchNorm3d over [B, C, T, H, W], one level down, as ``bn``."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x):
        return self.bn(x.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4)


class MSUnit(nn.Module):
    def __init__(self, before, width, stride, pooled):
        super().__init__()
        self.residual_function = nn.Sequential(
            QuarterLIF(),
            TimeConv(before, width, 3, stride, 1, bias=False),
            TimeNorm(width),
            QuarterLIF(),
            TimeConv(width, width, 3, 1, 1, bias=False),
            TimeNorm(width),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            pool = [nn.AvgPool3d((1, 2, 2))] if pooled else []
            conv = TimeConv(before, width, 1, 1 if pooled else stride, bias=False)
            self.shortcut = nn.Sequential(*pool, conv, TimeNorm(width))

    def forward(self, x):
        return self.residual_function(x) + self.shortcut(x)


class MSNet(nn.Module):
    """18, 34: one convolution in the stem; 104: three, with biases, and average pools in the shortcuts."""

    def __init__(self, depth, width=64, classes=1000):
        super().__init__()
        self.depth, deep = depth, depth == 104
        stem = [TimeConv(3, width, 7, 2, 3, bias=False)]
        if deep:
            stem = [TimeConv(3, width, 3, 2, 1), TimeConv(width, width, 3, 1, 1), TimeConv(width, width, 3, 1, 1)]
        self.conv1 = nn.Sequential(*stem, TimeNorm(width))
        before = width
        for stage, blocks in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 104: (3, 8, 32, 8)}[depth]):
            units = []
            for unit in range(blocks):
                units.append(MSUnit(before, width * 2**stage, 1 if unit else 2, deep))
                before = width * 2**stage
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(*units))
        self.spike = QuarterLIF()
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = self.conv1(x.expand(T, *x.shape))
        for stage in (self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x):
            x = stage(x)
        return self.fc(self.spike(x).mean((0, -2, -1)))


# SEW-ResNet, and the Spiking ResNet beside it -------------------------------------------------------------------------


class Container(nn.Module):
    """Layers without time, one level down, as ``module``."""

    def __init__(self, *layers):
        super().__init__()
        self.module = nn.Sequential(*layers)

    def forward(self, x):
        return over_time(self.module, x)


def conv_norm(before, width, kernel, stride=1):
    return nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width)


class SEWUnit(nn.Module):
    def __init__(self, before, width, stride, bottleneck, spiking_sum):
        super().__init__()
        self.spiking_sum = spiking_sum
        after = width * 4 if bottleneck else width
        shapes = [(before, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        for n, shape in enumerate(shapes):
            setattr(self, f"conv{n + 1}", Container(*conv_norm(*shape)))
        self.convs, self.spike = len(shapes), UnitIF()
        self.downsample = None
        if stride != 1 or before != after:
            project = Container(*conv_norm(before, after, 1, stride))
            self.downsample = project if spiking_sum else nn.Sequential(project, UnitIF())

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        for n in range(1, self.convs):
            x = self.spike(getattr(self, f"conv{n}")(x))
        x = getattr(self, f"conv{self.convs}")(x)
        return self.spike(x + skip) if self.spiking_sum else self.spike(x) + skip


class SEWNet(nn.Module):
    """``spiking_sum``: the sum of branch and skip feeds the neuron, as in the Spiking ResNet."""

    def __init__(self, depth, width=64, classes=1000, spiking_sum=False):
        super().__init__()
        self.depth, bottleneck = depth, depth >= 50
        self.conv1, self.bn1 = conv_norm(3, width, 7, 2)
        self.spike, self.maxpool = UnitIF(), nn.MaxPool2d(3, 2, 1)
        before = width
        blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
        for stage, count in enumerate(blocks):
            units = []
            for unit in range(count):
                stride = 2 if stage and not unit else 1
                units.append(SEWUnit(before, width * 2**stage, stride, bottleneck, spiking_sum))
                before = width * 2**stage * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = over_time(self.maxpool, self.spike(x.expand(T, *x.shape)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((0, -2, -1)))


# DS-ResNet ------------------------------------------------------------------------------------------------------------


class ThreeLevels(nn.Module):
    """u[t] = u[t-1] (1 - s[t-1]) / 4 + x[t]; s = u > V, summed over V = 0.6, 1.6, 2.6, each with a u of its own."""

    def forward(self, x):
        total = torch.zeros_like(x)
        for threshold in (0.6, 1.6, 2.6):
            u = s = torch.zeros_like(x[0])
            for t, x_t in enumerate(x):
                u = u * (1 - s) / 4 + x_t
                s = (u > threshold).to(x.dtype)
                total[t] += s
        return total


class ScaledNorm(nn.Module):
    """0.6 (x - mean) / (deviation + eps), then the affine of a BatchNorm2d that is kept one level down, as ``bn``."""

    def __init__(self, channels, affine=True):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x):
        mean, deviation = (v.view(-1, 1, 1) for v in (self.bn.running_mean, self.bn.running_var.sqrt()))
        y = 0.6 * (x - mean) / (deviation + self.bn.eps)
        return y if self.bn.weight is None else y * self.bn.weight.view(-1, 1, 1) + self.bn.bias.view(-1, 1, 1)


class DSUnit(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = TimeConv(before, width, 3, stride, 1, bias=False)
        self.bn1 = ScaledNorm(width)
        self.conv2 = TimeConv(width, width, 3, 1, 1, bias=False)
        self.bn2 = ScaledNorm(width)
        self.spike, self.shortcut = ThreeLevels(), nn.Sequential()
        if stride != 1 or before != width:
            project = TimeConv(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, ScaledNorm(width), ThreeLevels())

    def forward(self, x):
        branch = self.spike(self.bn1(self.conv1(x)))
        return self.spike(self.bn2(self.conv2(branch))) + self.shortcut(x)


class DSStage(nn.Module):
    def __init__(self, before, width, stride, blocks):
        super().__init__()
        first = DSUnit(before, width, stride)
        self.execute = nn.Sequential(first, *(DSUnit(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x):
        return self.execute(x)


class DSNet(nn.Module):
    """``normed``: the input is normed first, as for DVS-Gesture."""

    def __init__(self, depth, width=64, classes=10, normed=False):
        super().__init__()
        self.depth = depth
        if normed:
            self.bn0 = ScaledNorm(3, affine=False)
        self.normed, self.spike = normed, ThreeLevels()
        self.conv1, self.bn1 = TimeConv(3, width, 3, 1, 1, bias=False), ScaledNorm(width)
        blocks = (depth - 2) // 6
        self.layer1 = DSStage(width, width, 1, blocks)
        self.layer2 = DSStage(width, 2 * width, 2, blocks)
        self.layer3 = DSStage(2 * width, 4 * width, 2, blocks)
        self.voting = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = x.expand(T, *x.shape)
        x = self.spike(self.bn1(self.conv1(self.bn0(x) if self.normed else x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return self.voting(x.mean((-2, -1))).mean(0)


def trained(net):
    """Norms as after training, so that neurons have something to do; float64, so that no rounding turns a spike."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            if module.affine:
                nn.init.uniform_(module.weight, 0.4, 1.2)
                nn.init.uniform_(module.bias, -0.1, 0.4)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.05, 0.2)
            module.num_batches_tracked.fill_(7)
    return net.double().eval()
