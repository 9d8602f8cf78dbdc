"""A real quota that the disk's own figures do not show: the job is refused before anything is queued."""

import shutil
import subprocess

import pytest

MIB = 2**20


@pytest.fixture
def limited(tmp_path):
    """A folder on btrfs that may grow to 20 MiB, of a disk of 300."""
    for program in ("mkfs.btrfs", "btrfs", "mount", "umount"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here; Debian's package is btrfs-progs")
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(300 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, mounted], check=False).returncode:
        pytest.skip("a loop device may not be mounted here")
    try:
        for words in (["quota", "enable", mounted], ["subvolume", "create", mounted / "runs"]):
            subprocess.run(["btrfs", *words], check=True)
        subprocess.run(["btrfs", "qgroup", "limit", str(20 * MIB), mounted / "runs"], check=True)
        yield mounted / "runs"
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_checkpoint_that_only_a_quota_has_no_room_for_is_refused_before_the_run_is_made(workshop, limited):
    profile = workshop.profile(1, str(limited))
    wide = {"width": 384, "depth": 2, "heads": 6, "patch_size": 4, "drop_path": 0.0}
    refused = workshop.call("gmml-submit", workshop.job("large", model=wide), "--cluster", profile, code=3, errors=True)
    assert f"{limited}: a checkpoint takes " in refused
    assert "the disk refuses them: disk quota exceeded" in refused
    assert list(limited.iterdir()) == []
    workshop.call("gmml-submit", workshop.job("small", run={"steps": 4}), "--cluster", profile, "--follow")
