"""One accuracy with its sampling error."""

import math
from dataclasses import dataclass, field
from typing import cast

from gmml_cluster.outputs.run import EvaluatedOutput


@dataclass(frozen=True)
class Score:
    """An accuracy measured on `samples` images that were drawn, so it has an error.

    Attributes:
        name: `knn` or `linear`.
        feature: what was read from the encoder.
        hits: samples whose class was predicted.
        samples: samples that were scored.
        settings: what the score was made with, such as `{"k": 20}`.
        main: whether this is the number to report among those of its name and feature.
    """

    name: str
    feature: str
    hits: int
    samples: int
    settings: dict[str, float | int] = field(default_factory=dict)
    main: bool = True

    @property
    def accuracy(self) -> float:
        """Share of hits, in [0, 1]."""
        return self.hits / self.samples

    @property
    def error(self) -> float:
        """Standard error of the accuracy, sqrt(p (1 - p) / n); it says nothing of the spread between seeds."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples)

    def to_json(self) -> EvaluatedOutput:
        """The score as `gmml eval --json` prints it, in percent; its settings are further fields."""
        found: EvaluatedOutput = {
            "score": self.name,
            "feature": self.feature,
            "accuracy": round(100 * self.accuracy, 3),
            "error": round(100 * self.error, 3),
            "samples": self.samples,
            "main": self.main,
        }
        return cast(EvaluatedOutput, {**found, **self.settings})
