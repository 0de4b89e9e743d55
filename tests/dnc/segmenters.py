"""Small segmenters and batches with a label at every pixel, in memory."""

from __future__ import annotations

import torch
from torch import nn

from otcluster.dnc import DNCHead

IGNORED = 255

DIM = 6


def patches(stride=4, dim=DIM, seed=0):
    """A network of one convolution."""
    torch.manual_seed(seed)
    return nn.Conv2d(3, dim, stride, stride=stride)


def a_head(n_classes=3, k=2, **options):
    """A head that was shown something."""
    head = DNCHead(DIM, n_classes, n_subcentroids=k, **{"memory": 0, "momentum": 0.9, **options})
    lots = torch.Generator().manual_seed(1)
    head.observe(torch.randn(20 * n_classes, DIM, generator=lots), torch.arange(n_classes).repeat(20))
    return head


def a_batch(n=2, size=(16, 24), n_classes=3, seed=0, ignored=0.2):
    lots = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n, *size), generator=lots)
    labels[torch.rand(labels.shape, generator=lots) < ignored] = IGNORED
    return torch.randn(n, 3, *size, generator=lots), labels


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def textures(n, seed, size=32):
    """Stripes along or across, on half of an image each; they differ in no pixel, only in their neighbours."""
    lots = torch.Generator().manual_seed(seed)
    along = (torch.arange(size) % 4 < 2).to(torch.float32)
    labels = torch.zeros(n, size, size, dtype=torch.int64)
    for image, cut in zip(labels, torch.randint(8, size - 8, (n,), generator=lots).tolist(), strict=True):
        image[:, cut:] = 1
    grey = torch.where(labels == 0, along[:, None], along[None, :])
    images = grey[:, None] + 0.2 * torch.randn(n, 3, size, size, generator=lots)
    labels[:, :2] = IGNORED
    return images, labels
