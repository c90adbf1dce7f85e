"""The account of one optimisation step: its solves, and where its time went."""

import time

import torch

from trainer.models.anderson import BatchSolution


class StepRecord:
    """Takes note of solves and of the time of the parts of a step, from its creation on.

    Parameters
    ----------
    device : torch.device
        Where the step computes; a CUDA device is waited for at the end of each part.

    Attributes
    ----------
    solves : dict of str to BatchSolution
        By name: "forward", "backward".
    seconds : dict of str to float
        Time of each part: "data", "forward", "backward".
    """

    def __init__(self, device: torch.device) -> None:
        self.solves: dict[str, BatchSolution] = {}
        self.seconds: dict[str, float] = {}
        self._device = device
        self._since = self._now()

    def __call__(self, name: str, solution: BatchSolution) -> None:
        """Take note of a solve."""
        self.solves[name] = solution

    def lap(self, part: str) -> None:
        """End a part: it lasted since the previous one ended."""
        now = self._now()
        self.seconds[part] = now - self._since
        self._since = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
