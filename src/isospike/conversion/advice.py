"""What to do instead of a call that no converted network makes."""

VOCABULARY = (
    "a converted network is made of convolutions, linear layers, batch norms, ReLU, average and max pools, sums, and "
    "shortcuts: train the ANN without it"
)
_ACTIVATION = "a neuron stands for ReLU: train with ReLU in its place"
_BOUNDED = "a neuron stands for ReLU: train with ReLU, whose largest values the conversion cuts by itself"
_NORM = "only a norm with running statistics can be folded into weights: train with batch norms"
_PROBABILITY = "leave it out: the largest logit has the largest probability"
_GATE = "gates multiply maps, and spikes are only added: train without them"

ADVICE = {
    **dict.fromkeys(("silu", "swish", "gelu", "elu", "selu", "celu", "mish", "tanh", "softplus", "prelu"), _ACTIVATION),
    **dict.fromkeys(("leakyrelu", "leaky_relu", "rrelu", "hardswish", "sqrt", "exp", "pow", "abs"), _ACTIVATION),
    **dict.fromkeys(("relu6", "hardtanh"), _BOUNDED),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), _GATE),
    **dict.fromkeys(("groupnorm", "group_norm", "layernorm", "layer_norm", "instancenorm2d", "instance_norm"), _NORM),
    **dict.fromkeys(("softmax", "log_softmax", "logsoftmax"), _PROBABILITY),
    "batchnorm1d": "only norms of maps [B, C, H, W] are known: fold it into the linear layer before it",
    "zeropad2d": "give the convolution or pool behind it the padding",
}


def advice_for(name: str) -> str:
    """Return the advice for a function, method, operator or class of this name."""
    return ADVICE.get(name.lower().rstrip("_"), VOCABULARY)
