"""Self-paced learning: tasks that lag behind learn faster (arXiv 2310.07554, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from quadrieve.errors import InputError

Direction = Literal["as_text", "as_printed"]


class SelfPacedSchedule:
    """A factor for each task's learning rate (or loss), from how its loss moved since the last checkpoint of pace.

    Every `interval` steps the smoothed loss of each task is remembered as `L0`; in between, its factor is
    `alpha * clamp(L / L0, low, high)`. The paper's text gives lossy tasks a higher rate, which this is; its printed
    formula says `alpha * L0 / L`, which is `as_printed`. Before the first checkpoint every factor is `alpha`.

    Give it losses that are averaged over all processes, or their rates drift apart.

    Args:
        interval: Optimizer steps between checkpoints of pace.
        alpha: Factor of a task whose loss did not move.
        direction: `as_text` or `as_printed`.
        low: Lower bound of the ratio.
        high: Upper bound of the ratio.
        smoothing: Weight of the past in the smoothed loss, in [0, 1).

    Raises:
        InputError: If an option is out of bounds.

    Example:
        >>> pace = SelfPacedSchedule(interval=2, smoothing=0.0)
        >>> for loss in (4.0, 2.0, 3.0):
        ...     pace.update({"qa": loss})
        >>> pace.factor("qa"), pace.factor("tool")
        (1.5, 1.0)
    """

    def __init__(
        self,
        interval: int = 1000,
        *,
        alpha: float = 1.0,
        direction: Direction = "as_text",
        low: float = 0.5,
        high: float = 2.0,
        smoothing: float = 0.9,
    ) -> None:
        if interval < 1 or alpha <= 0 or not 0 < low <= 1 <= high or not 0 <= smoothing < 1:
            raise InputError(
                "Pacing needs interval >= 1, alpha > 0, 0 < low <= 1 <= high and 0 <= smoothing < 1, got "
                f"{interval}, {alpha}, {low}, {high} and {smoothing}."
            )
        if direction not in ("as_text", "as_printed"):
            raise InputError(f"Unknown direction {direction!r}; expected 'as_text' or 'as_printed'.")
        self.interval, self.alpha, self.direction = interval, alpha, direction
        self.low, self.high, self.smoothing = low, high, smoothing
        self._step = 0
        self._smoothed: dict[str, float] = {}
        self._reference: dict[str, float] = {}

    def factor(self, task: str) -> float:
        """What to multiply the task's learning rate or loss with."""
        loss, reference = self._smoothed.get(task), self._reference.get(task)
        if loss is None or reference is None or min(loss, reference) <= 0:
            return self.alpha
        ratio = loss / reference if self.direction == "as_text" else reference / loss
        return self.alpha * min(max(ratio, self.low), self.high)

    def update(self, losses: Mapping[str, float]) -> None:
        """Take in one optimizer step's loss by task; steps are counted here.

        Raises:
            InputError: If a loss is not finite.
        """
        for task, loss in losses.items():
            if not math.isfinite(loss):
                raise InputError(f"The loss of task {task!r} is {loss}; pacing needs finite losses.")
            previous = self._smoothed.get(task, loss)
            self._smoothed[task] = self.smoothing * previous + (1 - self.smoothing) * loss
        self._step += 1
        if self._step % self.interval == 0:
            self._reference = dict(self._smoothed)

    def state(self) -> dict[str, Any]:
        """All that changes, as JSON values."""
        return {"step": self._step, "smoothed": dict(self._smoothed), "reference": dict(self._reference)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._step = int(state["step"])
        self._smoothed = {str(task): float(loss) for task, loss in state["smoothed"].items()}
        self._reference = {str(task): float(loss) for task, loss in state["reference"].items()}
