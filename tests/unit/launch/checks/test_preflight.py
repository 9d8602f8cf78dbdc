import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from gmml_cluster.errors import Fault
from gmml_cluster.launch.checks.preflight import preflight as preflight_of
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.plan.machine import RankMemory
from gmml_cluster.plan.memory import Memory
from gmml_cluster.run.saving import space
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import Data
from tests.fixtures import submissions


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, members: Mapping[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def submission(root: Path, *, bytes_per_rank: int = 0, **profile: object) -> Submission:
    made = ClusterProfile.model_validate({"launcher": "local", "root": str(root), **profile})
    memory = Memory(bytes_per_rank, 0, 0, 0, 0)
    room = RankMemory(2**34, "this machine of 32.0 GiB for 2")
    return submissions.with_plan(submissions.submission(made, ranks_per_node=2), memory=memory, room=room)


def data(*corpora: str, **fields: object) -> Data:
    return Data.model_validate({"corpora": [{"url": url} for url in corpora or ("/none",)], "image_size": 8, **fields})


def preflight(root: Path, *corpora: str, max_pixels: int | None = None, **made: object) -> list[Fault]:
    limit = {} if max_pixels is None else {"max_pixels": max_pixels}
    return preflight_of(submission(root, **made), data(*corpora, **limit))  # type: ignore[arg-type]


def test_a_valid_submission_has_no_faults_and_leaves_nothing_behind(tmp_path: Path) -> None:
    corpus = shard(tmp_path / "a.tar", {"1.png": png()})
    assert preflight(tmp_path / "new" / "runs", corpus) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    faults = preflight(tmp_path / "file", f"{tmp_path}/none.tar", bytes_per_rank=2**60)
    assert [fault.where for fault in faults] == [f"{tmp_path}/file", f"{tmp_path}/none.tar", "memory"]


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_is_a_file_is_said_to_be_one(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (fault,) = preflight(tmp_path / root, shard(tmp_path / "a.tar", {"1.png": png()}))
    assert str(fault).startswith(f"{tmp_path / root}: {tmp_path}/file is a file; runs lie in a folder; ")


def test_a_bad_sample_among_good_ones_does_not_refuse_a_corpus(tmp_path: Path) -> None:
    corpus = shard(tmp_path / "a.tar", {"1.png": b"noise", "2.png": png()})
    assert preflight(tmp_path, corpus) == []


def test_a_corpus_without_an_image_is_refused_by_shard_and_member(tmp_path: Path) -> None:
    corpus = shard(tmp_path / "a.tar", {f"{number}.png": b"noise" for number in range(9)})
    (fault,) = preflight(tmp_path, corpus)
    assert fault.where == corpus
    assert f"{corpus}: 7.png" in fault.problem
    empty = shard(tmp_path / "b.tar", {"1.txt": b"words"})
    assert "no shard holds an image" in preflight(tmp_path, empty)[0].problem


def test_a_corpus_whose_images_are_all_too_large_for_the_job_is_refused(tmp_path: Path) -> None:
    corpus = shard(tmp_path / "a.tar", {"1.png": png()})
    assert preflight(tmp_path, corpus, max_pixels=16) == []
    (fault,) = preflight(tmp_path, corpus, max_pixels=15)
    assert "1.png: 4 x 4 pixels; the limit is 15 (data.max_pixels); 8 samples were tried" in fault.problem


def test_without_a_decoder_the_first_bytes_are_judged_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gmml_cluster.data.reader.decode", None)
    good, bad = shard(tmp_path / "a.tar", {"1.png": png()}), shard(tmp_path / "b.tar", {"1.png": b"noise"})
    (fault,) = preflight(tmp_path, good, bad)
    assert fault.where == bad
    assert "only the first bytes are checked" in caplog.text


@pytest.mark.parametrize("source", ["a node of 6.0 GiB for 2", "a GPU of 3.0 GiB"])
def test_memory_over_what_a_rank_may_use_is_refused_with_both_figures(tmp_path: Path, source: str) -> None:
    made = submission(tmp_path, bytes_per_rank=2**32)
    for room, faults in ((3 * 2**30, 1), (2**32, 0)):
        checked = submissions.with_plan(made, room=RankMemory(room, source))
        found = [fault for fault in preflight_of(checked, data()) if fault.where == "memory"]
        assert [fault.problem for fault in found] == [f"a rank needs about 4.0 GiB and has 3.0 GiB, {source}"] * faults


def test_memory_that_is_not_known_here_is_not_judged(tmp_path: Path) -> None:
    made = submissions.with_plan(submission(tmp_path, bytes_per_rank=2**60), room=None)
    assert not [fault for fault in preflight_of(made, data()) if fault.where == "memory"]


def test_no_heavy_package_is_imported_to_load_it() -> None:
    script = """
import sys
import gmml_cluster.launch.checks.preflight
print({"torch", "numpy", "PIL", "submitit"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda url: 10**9)
    for needed, faults in ((10**9, []), (2 * 10**9, ["1.00 GB are free, and the next checkpoint takes 2.00 GB"])):
        made = submissions.with_plan(submission(tmp_path), checkpoint_bytes=needed)
        assert [fault.problem for fault in preflight_of(made, data()) if fault.where == str(tmp_path)] == faults
