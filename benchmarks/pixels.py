"""What clustering pixels costs: ``python -m benchmarks.pixels`` prints its share of a training step.

A step is the loss of a batch, its backward pass, a step of SGD, and what the head observes, on generated crops of the sizes of
CamVid at half resolution: 4 x 360 x 480, 11 classes, 10 sub-centroids each. Options: ``--device``, ``--steps``, ``--networks``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.timing import device
from otcluster import ClassQueue
from otcluster.dnc import DNCHead, Segmenter
from otcluster.dnc.pixels.networks import build_network

CROPS, N_CLASSES, N_SUBCENTROIDS, DIM = (4, 3, 360, 480), 11, 10, 256
PER_CLASS, MEMORY = 512, 1024  # pixels of a class: drawn at a step, and remembered
WARM = 2  # steps that are not counted; at the first, classes start
NETWORKS = {"fcn": "resnet18", "deeplabv3": "resnet18", "upernet": "resnet18"}


def batch(seed: int, where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops with blocks of classes, of which low ones are frequent: noise around a colour of the class; a tenth is ignored."""
    lots = torch.Generator().manual_seed(seed)
    n, _, height, width = CROPS
    blocks = (N_CLASSES * torch.rand(n, height // 40, width // 40, generator=lots) ** 2).to(torch.int64)
    blocks[torch.rand(blocks.shape, generator=lots) < 0.1] = 255
    labels = blocks.repeat_interleave(40, 1).repeat_interleave(40, 2)
    colours = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    images = colours[labels].permute(0, 3, 1, 2) + torch.randn(CROPS, generator=lots)
    return images.contiguous().to(where), labels.to(where)


def seconds(name: str, encoder: str, steps: int, where: torch.device) -> tuple[float, float, int]:
    """Medians of a whole step and of what the head observes, and how many features there are for each batch."""
    torch.manual_seed(0)
    memory = ClassQueue(N_CLASSES * MEMORY, DIM, n_classes=N_CLASSES)
    head = DNCHead(DIM, N_CLASSES, n_subcentroids=N_SUBCENTROIDS, memory=memory)
    model = Segmenter(build_network(name, encoder, dim=DIM), head, per_class=PER_CLASS).to(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def now() -> float:
        if where.type != "cpu":
            torch.accelerator.synchronize(where)
        return time.perf_counter()

    whole, part = [], []
    for step in range(WARM + steps):
        images, labels = batch(step, where)
        start = now()
        found = model.loss(images, labels)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        before = now()
        model.observe(found.features, labels)
        end = now()
        whole.append(end - start)
        part.append(end - before)
    return statistics.median(whole[WARM:]), statistics.median(part[WARM:]), found.features[:, 0].numel()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["fcn", "deeplabv3"])
    given = options.parse_args()
    where = torch.device(given.device)
    print(device() if where.type == "cpu" else torch.cuda.get_device_name(where))
    print(f"{PER_CLASS} pixels of each class at a step, {MEMORY} remembered")
    print("| network | features | step, s | clustering, s | share |\n|---|---|---|---|---|")
    for name in given.networks:
        whole, part, n = seconds(name, NETWORKS[name], given.steps, where)
        print(f"| {name}, {NETWORKS[name]} | {n} | {whole:.3f} | {part:.4f} | {100 * part / whole:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
