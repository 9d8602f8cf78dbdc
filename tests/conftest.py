"""Fixtures of all tests: one module an outside world, taken where its file is there."""

from pathlib import Path

from hypothesis import HealthCheck, settings

# By itself hypothesis fails an example that takes longer than 200 ms, and a test that makes few of them in a second:
# both say something of the machine. And it tries other examples each time: what fails is to fail for all, each time.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("ours")

_FIXTURES = Path(__file__).parent / "fixtures"

pytest_plugins = [
    f"tests.fixtures.{name}" for name in ("s3", "slurm", "ray", "runs") if (_FIXTURES / f"{name}.py").exists()
]
