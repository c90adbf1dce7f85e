"""When a run has diverged: its images get worse, or its fixed points are no longer found.

NaN and infinity end a run at once (`NonFiniteError`). The two signs here come before or without them. They
must last, for runs do recover: of the shipped ablations, one from random networks lost 19 dB at one
validation and found no fixed point in single steps, and ended 2 dB above its best until then. In all others
no validation was more than 0.3 dB below the best, and no residual above 0.15.
"""

from dataclasses import asdict, dataclass

from engine.errors import DeqMpiError

PSNR_DROP = 3.0
"""How far, in dB, a validation must be below the best one to count as a setback."""

MAX_SETBACKS = 3
"""Setbacks in a row that end a run."""

DIVERGED_RESIDUAL = 0.3
"""Mean relative residual of the forward solves above which fixed points count as not found."""

RESIDUAL_GROWTH = 2.0
"""How many times the residual of a phase's first step it must be, too: few evaluations leave large ones."""

MAX_UNSOLVED = 25
"""Steps in a row without fixed points that end a run."""


class DivergedRunError(DeqMpiError):
    """Training made the model worse and worse; the last good checkpoint and the best weights were kept."""


@dataclass
class DivergenceWatch:
    """Counts the signs of divergence; its state is part of a checkpoint.

    Attributes
    ----------
    setbacks : int
        Validations in a row more than `PSNR_DROP` below the best.
    unsolved : int
        Steps in a row without fixed points.
    first_residual : float or None
        Mean residual of the first step of the phase.
    """

    setbacks: int = 0
    unsolved: int = 0
    first_residual: float | None = None

    @property
    def is_calm(self) -> bool:
        """Whether there is no sign of divergence, so that a checkpoint is worth keeping."""
        return self.setbacks == 0 and self.unsolved == 0

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the state, from which `DivergenceWatch(**state)` goes on."""
        return asdict(self)

    def begin_phase(self) -> None:
        """Forget the residuals of the phase before, whose solves may have been others."""
        self.unsolved, self.first_residual = 0, None

    def solved(self, residual: float) -> None:
        """Take note of the mean residual of a step's forward solves.

        Raises
        ------
        DivergedRunError
            After `MAX_UNSOLVED` steps in a row without fixed points.
        """
        if self.first_residual is None:
            self.first_residual = residual
        limit = max(DIVERGED_RESIDUAL, RESIDUAL_GROWTH * self.first_residual)
        self.unsolved = self.unsolved + 1 if residual > limit else 0
        if self.unsolved >= MAX_UNSOLVED:
            raise DivergedRunError(
                f"the forward solves diverged: their mean residual is {residual:.2g} and was above "
                f"{limit:.2g} for {self.unsolved} steps in a row, after {self.first_residual:.2g} at first; "
                "lower the learning rate, pre-train for longer, or use the implicit gradient"
            )

    def validated(self, psnr: float, best: float) -> None:
        """Take note of a validation, given the best one until and with it, both in dB.

        Raises
        ------
        DivergedRunError
            After `MAX_SETBACKS` setbacks in a row.
        """
        self.setbacks = 0 if psnr >= best - PSNR_DROP else self.setbacks + 1
        if self.setbacks >= MAX_SETBACKS:
            raise DivergedRunError(
                f"the validation diverged: {psnr:.2f} dB, and {self.setbacks} validations in a row more than "
                f"{PSNR_DROP:g} dB below the best of {best:.2f} dB; lower the learning rate, or use the "
                "implicit gradient"
            )
