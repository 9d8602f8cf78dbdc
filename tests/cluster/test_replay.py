"""A machine that goes down takes nothing with it, and what a run computed can be computed again."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from gmml_cluster.train.checkpoints.save import checksums
from tests.fixtures.outputs import checked
from tests.fixtures.runs import Workshop, ended
from tests.fixtures.supervised import ranks_of, supervisor_of, wait_for


def committed(entries):
    return [entry["step"] for entry in entries if entry["kind"] == "commit"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, digits):
    """A run whose supervisor and ranks were killed at once, as by a power cut, and that `resume --all` brought back."""
    folder = tmp_path_factory.mktemp("replayed")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    # plain DDP, as its ranks start faster than DeepSpeed's
    job = shop.job("cut", engine={"zero": "ddp"}, checkpoint={"every": "20 steps", "keep": 5})
    shop.pace(3, after=25)
    shop.call("gmml-submit", job, "--cluster", shop.profile(2, environment=shop.gates))
    shop.until("cut", committed)
    pids = [supervisor_of(shop, "cut"), *ranks_of(shop, "cut").values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    shop.pace(0)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    status = json.loads(shop.call("gmml", "status", "cut", "--json"))
    assert (status["state"], status["attempts"][0]["cause"]) == ("interrupted", "lost")
    (resumed,) = json.loads(shop.call("gmml", "resume", "--all", "--json"))
    assert (resumed["run"], resumed["action"]) == ("cut", "resumed")
    assert "nothing was done" in shop.call("gmml", "resume", "--all")
    assert ended(shop.until("cut", lambda entries: "finished" in ended(entries))) == ["lost", "finished"]
    return shop


def files(folder):
    """Every file below a folder, with its bytes' digest and its time."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in found}


def test_a_run_that_lost_its_machine_is_brought_back_and_computes_the_same_again_over_the_resume(shop):
    begins = [entry for entry in shop.entries("cut") if entry["kind"] == "begin"]
    again = begins[1]["step"]
    assert begins[1]["resumed"]["step"] == again - 1 >= 19
    assert [line["step"] for line in shop.lines("cut")] == list(range(60))
    before = files(shop.root)
    (found,) = checked("replay", shop.call("gmml", "replay", "cut", "--from", 0, "--to", again + 4, "--json"))
    assert (found["equal"], found["from"], found["to"]) == (True, 0, again + 4)
    assert (found["steps_compared"], found["parts"], found["warnings"]) == (again + 5, None, [])
    assert [each["step"] for each in found["checkpoints"]] == list(range(19, again, 20))
    assert all(each["differing"] == 0 < each["tensors"] for each in found["checkpoints"])
    assert files(shop.root) == before


def plant(run, step):
    """Flip one bit of one weight in the copy's checkpoint of this step, and make all digests agree with it."""
    (folder,) = run.glob(f"checkpoints/{step:08d}-*")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    name = sorted(manifest["tensors"])[0]
    (part, *_) = (part for part in manifest["tensors"][name]["slices"] if part["key"] == "value")
    data = bytearray((folder / part["file"]).read_bytes())
    data[part["offset"] + 2] ^= 1  # of the mantissa: less than one percent
    (folder / part["file"]).write_bytes(data)
    (listed,) = (file for file in manifest["files"] if file["file"] == part["file"])
    listed["crc32c"] = checksums(bytes(data))
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    for path in run.glob("log/*.json"):
        entry = json.loads(path.read_bytes())
        entry.pop("sum", None)  # it is folded from the first slot then
        if entry["kind"] == "commit" and entry["step"] == step:
            entry["manifest"] = hashlib.sha256(text).hexdigest()
        path.write_text(json.dumps(entry))
    return name


def test_one_flipped_bit_of_a_checkpoint_is_found_in_its_tensor_and_in_the_step_after_it(shop, tmp_path):
    shutil.copytree(shop.root, tmp_path / "copies")
    copy = tmp_path / "copies" / "cut"
    name = plant(copy, 39)
    (found,) = checked("replay", shop.call("gmml", "replay", copy, "--from", 20, "--to", 39, "--json", code=1))
    assert (found["equal"], found["resumed"], found["parts"]) == (False, "checkpoints/00000019-0001", None)
    (checkpoint,) = found["checkpoints"]
    assert (checkpoint["step"], checkpoint["differing"], checkpoint["first"]["elements"]) == (39, 1, 1)
    assert (checkpoint["first"]["tensor"], checkpoint["first"]["key"]) == (name, "value")
    shown = shop.call("gmml", "replay", copy, "--from", 40, "--to", 41, code=1)
    assert "step 40 is the first that differs" in shown
