"""SpikingJelly's converter on a job of ``conversion.py``, in the peers' environment; its answer replaces the job."""

import sys
import time
from itertools import cycle, islice

import torch
from spikingjelly.activation_based import ann2snn, functional

from cifar_anns import resnet, with_convolutions

BATCH = 32
# A batch is one step of the search for its local thresholds; its example takes 50,000 images in batches of 128, which
# are 391. Images that are fewer go round until the steps are as many.
LTB_STEPS = 391


def recipe_of(name: str, batches: list[torch.Tensor]) -> ann2snn.ConversionRecipe:
    """As its documentation and its examples have them."""
    if name == "ltb":
        return ann2snn.LocalThresholdBalancingRecipe(dataloader=list(islice(cycle(batches), LTB_STEPS)))
    if name == "robust":
        return ann2snn.RateCodingRecipe(dataloader=batches, mode="99.9%", channel_wise=True, half_threshold=True)
    return ann2snn.RateCodingRecipe(dataloader=batches, mode="Max")


def thresholds_of(net: torch.fx.GraphModule) -> list[torch.Tensor]:
    """What a spike of every channel stands for, layer by layer; none where the recipe keeps it elsewhere."""
    calls = [str(node.target) for node in net.graph.nodes if node.op == "call_module"]
    scales = [net.get_submodule(name).scale for name in calls if name.endswith("scaler1")]
    return [scale.detach().double().view(-1) for scale in scales]


@torch.no_grad()
def main(path: str) -> None:
    job = torch.load(path, weights_only=True)
    batches, device = list(job["calibration"].split(BATCH)), job["calibration"].device
    ann = with_convolutions(resnet(job["weights"])).to(device)  # the converter knows no padding
    began = time.process_time()
    net = ann2snn.FXConverter(recipe=recipe_of(job["recipe"], batches)).convert(ann).eval()
    converted = time.process_time()
    start, T = 0, job["T"]
    if job["recipe"] == "ltb":
        start = ann2snn.estimate_delay_start(net, batches, device, T)
    ready, decisions = time.process_time(), []
    for images in job["images"].split(BATCH if device.type == "cpu" else len(job["images"])):
        functional.reset_net(net)
        total, steps = torch.zeros((), device=device), []
        for t in range(T):
            now = net(images)
            total = now if t == start else total + now
            steps.append(total.argmax(1))
        decisions.append(torch.stack(steps))
    seconds = {"convert": converted - began, "simulate": time.process_time() - ready}
    answer = {"decisions": torch.cat(decisions, 1), "delay": start, "cpu_seconds": seconds}
    answer["thresholds"] = thresholds_of(net) if job["recipe"] == "robust" else []
    torch.save(answer, path)


if __name__ == "__main__":
    main(sys.argv[1])
