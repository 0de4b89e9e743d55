"""SwAV on the handwritten digits: features learnt without labels, from the parts of otcluster.

Each image is seen twice, turned, moved and scaled at random. Prototypes share the views of a batch, and those that a queue
remembers, equally (Sinkhorn-Knopp); each view then has to tell to which prototypes the other one went. At the end a linear
classifier on the frozen features says what they are worth, beside the same network before training. Alone, or on several ranks,
each with its own part of every batch:

    python examples/swav_digits.py
    torchrun --nproc-per-node 2 examples/swav_digits.py

Source: Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments" (2020).
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import timm
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import otcluster as otc


class Network(nn.Module):
    """Backbone, projection, and the cosines of the projections to the prototypes."""

    def __init__(self, dim: int, n_prototypes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model("test_resnet", in_chans=1, num_classes=0)
        width = self.backbone.num_features
        self.projection = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, dim))
        self.prototypes = nn.Parameter(torch.randn(n_prototypes, dim))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        projected = F.normalize(self.projection(self.backbone(images)), dim=1)
        return projected, projected @ F.normalize(self.prototypes, dim=1).T


def seen(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images turned by up to 0.25 radians, scaled, stretched and moved, each in its own way, with noise."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), generator=generator)

    angle, size, stretch = between(-0.25, 0.25), between(0.85, 1.15), between(0.85, 1.15)
    rows = [
        [angle.cos() * size * stretch, -angle.sin() * size, between(-0.15, 0.15)],
        [angle.sin() * size * stretch, angle.cos() * size, between(-0.15, 0.15)],
    ]
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return moved + 0.2 * torch.randn(moved.shape, generator=generator)


def features(network: Network, images: Tensor) -> np.ndarray:
    """What the backbone says of images as they are."""
    network.eval()
    with torch.no_grad():
        found = torch.cat([network.backbone(part) for part in images.split(256)]).numpy()
    network.train()
    return found


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are learnt from and which are held out, a fifth of each class."""
    return train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)


def probe(found: np.ndarray, labels: np.ndarray, per_class: int | None = None) -> float:
    """Held-out accuracy of a linear classifier on frozen features, learnt from all other images or from some of each class."""
    train, test = split(labels)
    if per_class is not None:
        train = np.concatenate([train[labels[train] == label][:per_class] for label in np.unique(labels)])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(found[train], labels[train])
    return float(classifier.score(found[test], labels[test]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--prototypes", type=int, default=64)
    parser.add_argument("--queue", type=int, default=512, help="projections remembered, on all ranks together")
    parser.add_argument("--epsilon", type=float, default=0.05, help="entropic strength of the assignment")
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    reducer = otc.TorchReducer()  # alone where there is no process group
    rank, n_ranks = reducer.rank, reducer.n_ranks

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, size=32, mode="bilinear")
    learnt = torch.from_numpy(split(digits.target)[0])

    torch.manual_seed(options.seed)  # the same weights on all ranks
    network = Network(dim=64, n_prototypes=options.prototypes)
    untrained = features(network, images)
    model = DistributedDataParallel(network) if n_ranks > 1 else network
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    queues = [otc.MemoryQueue(capacity=options.queue // n_ranks, dim=64) for _ in range(2)]
    solver = otc.SinkhornKnopp(epsilon=options.epsilon, max_iter=3)

    everywhere = torch.Generator().manual_seed(options.seed)  # the order of the images
    here = torch.Generator().manual_seed(options.seed * 1000 + rank)  # how this rank sees them
    started = time.perf_counter()
    for epoch in range(options.epochs):
        total = 0.0
        for batch in learnt[torch.randperm(len(learnt), generator=everywhere)].split(options.batch_size):
            own = images[batch.tensor_split(n_ranks)[rank]]
            projected, scores = model(torch.cat([seen(own, here), seen(own, here)]))
            loss = torch.zeros(())
            for queue, mine, my_scores, other_scores in zip(
                queues, projected.detach().chunk(2), scores.detach().chunk(2), scores.chunk(2)[::-1], strict=True
            ):
                remembered = queue.features if queue.ready else mine[:0]
                with torch.no_grad():
                    past = remembered @ F.normalize(network.prototypes, dim=1).T
                problem = otc.Problem(torch.cat([my_scores, past]), sharded=True)
                plan = otc.solve(problem, solver, reducer=reducer).plan()[: len(mine)]
                loss = loss - (plan * F.log_softmax(other_scores / options.temperature, dim=1)).sum() / (2 * len(batch))
                queue.push(mine)
            optimizer.zero_grad()
            (loss * n_ranks).backward()  # DDP averages over ranks
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        mean = reducer.sum(torch.tensor([total])).item() / len(learnt)
        if rank == 0 and (epoch % 10 == 9 or epoch + 1 == options.epochs):
            print(f"epoch {epoch + 1}: loss {mean:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    if rank == 0:
        print("linear probe on         10 labels a class   all labels")
        rows = {"pixels": digits.data, "untrained features": untrained, "SwAV features": features(network, images)}
        for name, found in rows.items():
            few, every = (probe(found, digits.target, per_class) for per_class in (10, None))
            print(f"{name:23} {few:17.4f} {every:12.4f}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
