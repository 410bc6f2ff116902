"""Filters that several corruptions use; edges are mirrored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d, grid_sample, pad

from eval.corruptions import Picture


def convolved(picture: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
    """[H, W, C] each channel convolved with an odd kernel [h, w], which is made to sum to 1."""
    image = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[:, None]
    weight = torch.from_numpy(np.asarray(kernel / kernel.sum(), np.float32))[None, None]
    down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
    for _ in range(max(down, right)):  # mirrored as often as needed: a kernel may be wider than the picture
        step = (min(right, image.shape[3] - 1), min(down, image.shape[2] - 1))
        image = pad(image, (step[0], step[0], step[1], step[1]), mode="reflect")
        right, down = right - step[0], down - step[1]
        if right <= 0 and down <= 0:
            break
    return np.asarray(conv2d(image, weight)[:, 0].permute(1, 2, 0))


def gaussian(picture: NDArray[Any], sigma: float) -> NDArray[Any]:
    """[H, W, C] blurred by a Gaussian of this standard deviation in pixels, cut at three of them."""
    reach = max(1, round(3 * sigma))
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    return convolved(convolved(picture, line[:, None]), line[None])


def disk(radius: float) -> NDArray[Any]:
    """[h, h] how much of each pixel lies within `radius` of the middle of the middle one."""
    reach, fine = int(np.ceil(radius)), 9
    steps = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = steps[:, None] ** 2 + steps[None] ** 2 <= radius**2
    size = 2 * reach + 1
    return np.asarray(inside.reshape(size, fine, size, fine).mean(axis=(1, 3)))


def sampled(picture: Picture, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
    """[h, w, C] the picture at these rows and columns [h, w] of it, which need not be whole: bilinear, mirrored."""
    height, width = picture.shape[:2]
    grid = np.stack([2 * columns / max(1, width - 1) - 1, 2 * rows / max(1, height - 1) - 1], axis=-1)
    image = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None]
    points = torch.from_numpy(grid.astype(np.float32))[None]
    result = grid_sample(image, points, padding_mode="reflection", align_corners=True)
    return np.asarray(result[0].permute(1, 2, 0))
