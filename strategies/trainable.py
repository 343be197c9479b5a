"""What a zeroth-order method trains: all weights of a model as one vector, or low-rank changes of its matrices.

LoRA (Hu et al., 2021): a weight W [out, ...] of two dimensions or more is W0 + B A, with A [rank, rest] and B
[out, rank]; A is drawn once from the seed, B begins at 0, and all else stays as it was.
"""

import torch
from torch import Tensor, nn

from .exact import Arrays
from .zeroth import direction, key_of


class Trainable:
    """The trained vector of a model, float32 [n], and the way from it to the weights.

    The model must hold its initial weights when this is made: with LoRA they are the frozen base. Raises ValueError for
    weights below float32, and for LoRA on a model without matrices.
    """

    def __init__(self, model: nn.Module, rank: int, seed: int) -> None:
        self.rank, self.seed = rank, seed
        self.base = {name: value.detach().clone() for name, value in model.named_parameters()}
        for name, value in self.base.items():
            if value.dtype not in {torch.float32, torch.float64}:
                raise ValueError(
                    f"onebyte: weight '{name}' is {str(value.dtype).removeprefix('torch.')}; wanted float32: steps of "
                    "a byte vanish in coarser numbers, and the participants would drift apart"
                )
        self.device = next(iter(self.base.values())).device
        self.matrices = {name: value for name, value in self.base.items() if value.dim() >= 2} if rank else {}
        if rank and not self.matrices:
            raise ValueError("settings.onebyte.lora_rank: the model has no weight of two dimensions or more")

    def initial(self) -> Tensor:
        """Give the vector that stands for the initial weights."""
        if not self.rank:
            return torch.cat([value.reshape(-1) for value in self.base.values()])
        pieces: list[Tensor] = []
        for number, value in enumerate(self.matrices.values()):
            rest = value.numel() // len(value)
            drawn = direction(key_of(self.seed, 0, number, 0), self.rank * rest, "gaussian", self.device)
            pieces += [drawn * rest**-0.5, torch.zeros(len(value) * self.rank, device=self.device)]
        return torch.cat(pieces)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """Give the weights, by name, that a vector stands for."""
        found, at = dict(self.base), 0
        if not self.rank:
            for name, value in self.base.items():
                found[name] = vector[at : at + value.numel()].view(value.shape)
                at += value.numel()
            return found
        for name, value in self.matrices.items():
            rows, rest = len(value), value.numel() // len(value)
            narrow = vector[at : at + self.rank * rest].view(self.rank, rest)
            at += self.rank * rest
            wide = vector[at : at + rows * self.rank].view(rows, self.rank)
            at += rows * self.rank
            found[name] = value + (wide @ narrow).view(value.shape)
        return found

    def put(self, model: nn.Module, vector: Tensor) -> None:
        """Write the weights that a vector stands for into the model."""
        new = self.weights(vector)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(new[name])

    def arrays(self, vector: Tensor) -> Arrays:
        """Give the weights as arrays."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.weights(vector).items()}
