"""Bootstrap intervals that resample documents, with all their questions: questions about one document are not independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lloco_integrations.evaluation.metrics import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUNDS = 2000


@dataclass(frozen=True)
class Means:
    """A mean over questions, and the same mean in each round of the bootstrap, ``(rounds,)``: rounds of two rows are paired."""

    mean: float
    rounds: NDArray[np.float64]

    def __sub__(self, other: Means) -> Means:
        return Means(self.mean - other.mean, self.rounds - other.rounds)

    def over(self, other: Means) -> Means:
        """The quotient; rounds in which ``other`` is not above 0 say nothing and are left out of the interval."""
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            rounds = np.where(other.rounds > 0, self.rounds / other.rounds, np.nan)
        return Means(self.mean / other.mean, rounds)

    @property
    def interval(self) -> Interval:
        """The mean with the 2.5 and 97.5 percentiles of the rounds."""
        import numpy as np

        low, high = np.nanpercentile(self.rounds, [2.5, 97.5])
        return Interval(self.mean, float(low), float(high))


class Bootstrap:
    """Rounds of resampled documents, the same for every row of one scorecard. Deterministic for a seed."""

    def __init__(self, documents: Sequence[str], *, seed: int = 0, rounds: int = ROUNDS) -> None:
        import numpy as np

        n = len(documents)
        self.documents = list(documents)
        self._counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=rounds)

    def means(self, values: Mapping[str, Sequence[float]]) -> Means | None:
        """The mean of ``values``, document -> a value for each of its questions; None if there is no value."""
        import numpy as np

        sums = np.array([float(sum(values.get(d, ()))) for d in self.documents])
        sizes = np.array([len(values.get(d, ())) for d in self.documents])
        if not sizes.sum():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            rounds = (self._counts @ sums) / (self._counts @ sizes)
        return Means(float(sums.sum() / sizes.sum()), rounds)
