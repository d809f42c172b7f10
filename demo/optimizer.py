"""Muon: momentum whose update is made orthogonal, for the matrices of the layers.

After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). Matrices of one shape are
orthogonalized together, so that a small model does not spend its time on kernel launches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrices, in bf16. [n, rows, columns] -> the same."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                self._step_shape(group, shape, parameters)

    def _step_shape(self, group: dict[str, float], shape: torch.Size, parameters: list[nn.Parameter]) -> None:
        gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
        state = self.state[parameters[0]]  # one buffer for all matrices of a shape
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradients)
        buffer = state["momentum"].lerp_(gradients, 1 - group["momentum"])
        update = orthogonalize(gradients.lerp(buffer, group["momentum"]))
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        weights: list[Tensor] = [p.data for p in parameters]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(update.unbind()), alpha=-group["lr"] * scale)
