"""Swap of the operators or the model of a running reconstruction: on trial first, and back if they fail."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TRIAL_IMAGES = 8
"""Number of images after which a swap is accepted."""


class SwapStep(StrEnum):
    """Step that a swap has come to."""

    REFUSED = "refused"  # the check failed; nothing was changed
    WAITING = "waiting"  # for the next frame
    ON_TRIAL = "on-trial"
    ACCEPTED = "accepted"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class SwapState:
    """State of the last swap.

    Attributes
    ----------
    step : SwapStep
        Step that it has come to.
    reason : str
        Reason for that.
    """

    step: SwapStep
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"state": self.step.value, "reason": self.reason}


class SwapTrial:
    """The first images after a swap.

    Parameters
    ----------
    had_residual_flag : bool
        Whether the image before the swap did not explain its data: then it is not held against the new ones.
    """

    def __init__(self, had_residual_flag: bool) -> None:
        self._had_residual_flag = had_residual_flag
        self._images = self._flagged = 0

    def image(self, has_residual_flag: bool) -> SwapState | None:
        """Take note of an image; return the verdict once it stands."""
        self._images += 1
        self._flagged += has_residual_flag
        if self._images < TRIAL_IMAGES:
            return None
        if self._flagged == self._images and not self._had_residual_flag:
            return SwapState(
                SwapStep.ROLLED_BACK,
                f"none of the first {TRIAL_IMAGES} images explains its data, those before did",
            )
        return SwapState(SwapStep.ACCEPTED, f"after {TRIAL_IMAGES} images")
