"""The rows of the check in their order: which function makes each, and how long it may take."""

from dataclasses import dataclass

ENGINES = ("ddp", "zero-0", "zero-1", "zero-2", "zero-3")
_HERE = "benchmarks.gpu_check"


@dataclass(frozen=True)
class Row:
    """One row, made by a process of its own.

    Attributes:
        function: `module:name`; it is called with the variant and the `Setting`.
        limit_s: after so many seconds its processes are killed. A row of 20 steps takes some 30 s, most of them for
            imports; the limits are for what hangs.
    """

    part: str
    variant: str
    function: str
    limit_s: float

    @property
    def name(self) -> str:
        """Part and variant."""
        return f"{self.part}/{self.variant}" if self.variant else self.part


def _rows(part: str, variants: tuple[str, ...], function: str, limit_s: float) -> list[Row]:
    return [Row(part, variant, f"{_HERE}.{function}", limit_s) for variant in variants]


ROWS = (
    *_rows("install", ("",), "install:install", 120),
    *_rows("draws", ("integers", "normals"), "draws:draws", 240),
    *_rows("steps", ENGINES, "steps:steps", 180),
    *_rows("not-finite", ENGINES, "steps:not_finite", 180),
    *_rows("attention", ("math", "efficient", "flash", "cudnn"), "attention:attention", 120),
    *_rows("deterministic", ENGINES, "steps:deterministic", 240),
    *_rows("vit-l", ("8", "64", "128"), "speed:speed", 240),
    *_rows("stream", ("2", "4", "8"), "reading:reading", 180),
    *_rows("ranks", ("one GPU each", "killed", "stopped"), "several:several", 360),
)
PARTS = tuple(dict.fromkeys(row.part for row in ROWS))
