"""Fixtures of all tests: one module an outside world, taken where its file is there."""

from pathlib import Path

_FIXTURES = Path(__file__).parent / "fixtures"

pytest_plugins = [
    f"tests.fixtures.{name}" for name in ("s3", "slurm", "ray", "runs") if (_FIXTURES / f"{name}.py").exists()
]
