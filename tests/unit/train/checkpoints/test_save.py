"""A checkpoint gives back by name and range what any ranks saved, and never gives back damage."""

import json
import re
import resource
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gmml_cluster.errors import CheckpointError, Fault, StorageError
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.verified import READS
from gmml_cluster.train.checkpoints import save as saving
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.checkpoints.save import Saved, Saver
from gmml_cluster.train.engines.slices import Slice
from gmml_cluster.train.ranks.rendezvous import RankInfo


class SharedStore:
    """A key-value store for ranks that are threads of one process."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def set(self, key, value):
        with self._changed:
            self._values[key] = json.dumps(value)
            self._changed.notify_all()

    @property
    def keys(self):
        return set(self._values)

    def delete(self, key):
        del self._values[key]

    def wait(self, key, *, timeout_s):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, timeout_s):
                raise TimeoutError(key)
            return json.loads(self._values[key])


def cut(tensors, edges, ranks):
    """Slices of each rank: the tensors laid end to end and cut at `edges`."""
    bounds = [0, *sorted(edges), sum(t.numel() for t in tensors.values())]
    owned, offset = [[] for _ in range(ranks)], 0
    for name, tensor in tensors.items():
        for rank in range(ranks):
            low = max(bounds[rank], offset) - offset
            high = min(bounds[rank + 1], offset + tensor.numel()) - offset
            if low < high:
                views = {"value": tensor.view(-1)[low:high], "exp_avg": -tensor.view(-1)[low:high]}
                owned[rank].append(Slice(name, tuple(tensor.shape), low, views))
        offset += tensor.numel()
    return owned


def save(folder, owned, step=7, state=None):
    store, kv, commits = PosixStore(folder), SharedStore(), []
    ranks = len(owned)
    savers = [
        Saver(
            store,
            kv,
            RankInfo(rank, ranks, rank, ranks),
            attempt=2,
            slices=lambda part=part: part,
            commit=lambda saved, state: commits.append(saved),
        )
        for rank, part in enumerate(owned)
    ]
    for saver in savers:
        saver.begin(step, state or {"adam_step": 5, "skipped_steps": [3]})
    for saver in savers:
        saver.finish()
    assert len(commits) == 1
    assert kv.keys == {f"saved/{step}"}, "the ranks' parts of the manifest are forgotten"
    return store, commits[0]


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_range_is_read_back_whatever_the_ranks_owned(tmp_path_factory, data):
    shapes = data.draw(st.lists(st.sampled_from([(1,), (7,), (3, 5), (64, 33)]), min_size=1, max_size=5))
    tensors = {
        f"t{i}": torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)
    }
    total = sum(t.numel() for t in tensors.values())
    edges = data.draw(st.lists(st.integers(0, total), max_size=3))
    store, saved = save(tmp_path_factory.mktemp("run"), cut(tensors, edges, len(edges) + 1))
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    assert reader.shapes == {name: tuple(t.shape) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        start = data.draw(st.integers(0, tensor.numel() - 1))
        numel = data.draw(st.integers(1, tensor.numel() - start))
        expected = tensor.view(-1)[start : start + numel]
        assert torch.equal(reader.read(name, "value", start, numel), expected)
        assert torch.equal(reader.read(name, "exp_avg", start, numel), -expected)
        assert torch.equal(reader.tensor(name), tensor)


def test_the_files_are_safetensors_that_the_public_library_reads(tmp_path):
    tensors = {"a.weight": torch.arange(12.0).view(3, 4)}
    _, saved = save(tmp_path, cut(tensors, [5], 2))
    first = load_file(tmp_path / saved.folder / "rank-00000.safetensors")
    assert first["a.weight|value|0"].tolist() == [0, 1, 2, 3, 4]
    second = load_file(tmp_path / saved.folder / "rank-00001.safetensors")
    assert second["a.weight|exp_avg|5"].tolist() == [-5, -6, -7, -8, -9, -10, -11]


def test_the_manifest_carries_the_scalar_state(tmp_path):
    store, saved = save(tmp_path, cut({"a": torch.ones(4)}, [], 1), step=41)
    manifest = CheckpointReader(store, saved.folder, saved.manifest_sha256).manifest
    assert (manifest["step"], manifest["attempt"], manifest["adam_step"], manifest["skipped_steps"]) == (41, 2, 5, [3])


def test_one_flipped_byte_is_named_by_file_and_block(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "BLOCK_BYTES", 256)
    monkeypatch.setattr("gmml_cluster.train.checkpoints.read.BLOCK_BYTES", 256)
    store, saved = save(tmp_path, cut({"a": torch.ones(400)}, [], 1))
    path = tmp_path / saved.folder / "rank-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors: block 3 "):
        reader.verify(0, 1)
    with pytest.raises(CheckpointError, match="block 3 "):
        reader.tensor("a")


class Flaky(PosixStore):
    """Answers some reads wrongly, each a few times, as a proxy before an object store may."""

    def __init__(self, folder, wrong):
        super().__init__(folder)
        self.wrong, self.reads = wrong, 0

    def get(self, name, start=0, length=None):
        self.reads += 1
        data = super().get(name, start, length)
        if self.wrong == 0:
            return data
        self.wrong -= 1
        return data[:-1] if self.wrong % 2 else data[:-1] + bytes([data[-1] ^ 1])


@pytest.fixture
def impatient(monkeypatch):
    """No pauses between reads."""
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda _: None)


def test_one_flipped_or_short_answer_is_read_again_and_is_no_damage(tmp_path, impatient):
    _, saved = save(tmp_path, cut({"a": torch.arange(400.0)}, [], 1))
    store = Flaky(tmp_path, wrong=2)
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    store.wrong = 2
    assert torch.equal(reader.tensor("a"), torch.arange(400.0))
    assert store.wrong == 0
    store.wrong = 1
    reader.verify(0, 1)
    assert store.wrong == 0


def test_answers_that_stay_wrong_are_damage(tmp_path, impatient):
    _, saved = save(tmp_path, cut({"a": torch.arange(400.0)}, [], 1))
    store = Flaky(tmp_path, wrong=99)
    with pytest.raises(CheckpointError, match="not the manifest that was committed"):
        CheckpointReader(store, saved.folder, saved.manifest_sha256)
    assert store.reads == READS
    store.wrong = 0
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    store.wrong = 99
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors: block 0 disagrees with its CRC32C"):
        reader.tensor("a")


def test_the_first_save_allocates_no_host_memory(tmp_path):
    """Pages are handed out at their first write: a copy into new ones meets a fault for each."""
    tensor = torch.ones(4 * 2**20)
    saver = Saver(
        PosixStore(tmp_path),
        SharedStore(),
        RankInfo(0, 1, 0, 1),
        attempt=0,
        slices=lambda: [Slice("a", (tensor.numel(),), 0, {"value": tensor})],
        commit=lambda *_: None,
    )
    buffer = saver._buffer
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    saver.begin(0, {"adam_step": 1, "skipped_steps": []})
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - faults
    assert saver._buffer is buffer
    assert faults < 4 * tensor.numel() / resource.getpagesize() / 8
    saver.finish()


def test_what_was_verified_is_not_read_from_the_store_again(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "BLOCK_BYTES", 256)
    monkeypatch.setattr("gmml_cluster.train.checkpoints.read.BLOCK_BYTES", 256)
    tensors = {"a": torch.arange(400.0), "b": torch.arange(30.0).view(5, 6)}
    _, saved = save(tmp_path, cut(tensors, [150, 410], 3))
    store = Flaky(tmp_path, wrong=0)
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    for rank in range(3):
        reader.verify(rank, 3)
    reads = store.reads
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in tensors.items())
    assert torch.equal(reader.read("a", "exp_avg", 140, 20), -tensors["a"][140:160])
    assert store.reads == reads


class Recording(PosixStore):
    """Keeps which bytes of rank files are asked for."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked = []

    def get(self, name, start=0, length=None):
        if name.endswith(".safetensors"):
            self.asked.append((start, length))
        return super().get(name, start, length)


@given(start=st.integers(0, 399), more=st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_a_range_costs_the_blocks_that_hold_it_and_no_others(tmp_path_factory, start, more):
    numel, block, tensors = min(more, 400 - start), 256, {"a": torch.arange(400.0)}
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(saving, "BLOCK_BYTES", block)
        patches.setattr("gmml_cluster.train.checkpoints.read.BLOCK_BYTES", block)
        folder = tmp_path_factory.mktemp("run")
        _, saved = save(folder, cut(tensors, [], 1))
        store = Recording(folder)
        reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
        assert torch.equal(reader.read("a", "value", start, numel), tensors["a"][start : start + numel])
    ((first, length),) = store.asked
    part = next(part for part in reader.manifest["tensors"]["a"]["slices"] if part["key"] == "value")
    begin, end = part["offset"] + 4 * start, part["offset"] + 4 * (start + numel)
    assert first == begin // block * block
    assert end <= first + length < end + block


def test_a_manifest_that_is_not_the_committed_one_is_refused(tmp_path):
    store, saved = save(tmp_path, cut({"a": torch.ones(4)}, [], 1))
    with pytest.raises(CheckpointError, match="not the manifest that was committed"):
        CheckpointReader(store, saved.folder, "0" * 64)


def test_a_missing_file_is_damage(tmp_path):
    store, saved = save(tmp_path, cut({"a": torch.ones(4)}, [2], 2))
    store.delete([f"{saved.folder}/rank-00001.safetensors"])
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    reader.verify(0, 2)
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors: is missing"):
        reader.verify(1, 2)


def test_files_of_more_ranks_that_an_earlier_save_left_in_the_folder_are_never_read(tmp_path):
    """As where a run shrinks and its checkpoint folders are used again."""
    _, earlier = save(tmp_path, cut({"a": torch.zeros(6)}, [2, 4], 3))
    store, saved = save(tmp_path, cut({"a": torch.arange(6.0)}, [3], 2))
    assert earlier.folder == saved.folder
    assert (tmp_path / saved.folder / "rank-00002.safetensors").exists()
    reader = CheckpointReader(store, saved.folder, saved.manifest_sha256)
    for rank in range(2):
        reader.verify(rank, 2)
    assert reader.tensor("a").tolist() == [0, 1, 2, 3, 4, 5]
    assert [file["file"] for file in reader.manifest["files"]] == ["rank-00000.safetensors", "rank-00001.safetensors"]


def test_what_is_saved_are_the_values_at_begin_whatever_training_does_next(tmp_path):
    tensor = torch.zeros(1000)
    store, kv, commits = PosixStore(tmp_path), SharedStore(), []
    held = threading.Event()

    def commit(saved: Saved, state):
        commits.append(saved)

    class SlowStore(PosixStore):
        def put(self, name, data):
            held.wait(10)
            super().put(name, data)

    saver = Saver(
        SlowStore(tmp_path),
        kv,
        RankInfo(0, 1, 0, 1),
        attempt=0,
        slices=lambda: [Slice("a", (1000,), 0, {"value": tensor})],
        commit=commit,
    )
    saver.begin(0, {"adam_step": 1, "skipped_steps": []})
    tensor.fill_(9.0)
    held.set()
    saver.finish()
    reader = CheckpointReader(store, commits[0].folder, commits[0].manifest_sha256)
    assert torch.equal(reader.tensor("a"), torch.zeros(1000))


def test_a_save_waits_for_the_one_in_flight_so_that_two_never_are_and_both_keep_their_values(tmp_path):
    tensor, commits, held, writing = torch.zeros(1000), [], threading.Event(), threading.Event()
    at_once, most = threading.Semaphore(1), []

    class SlowStore(PosixStore):
        def put(self, name, data):
            if name.endswith(".safetensors"):
                most.append(at_once.acquire(blocking=False))
                writing.set()
                held.wait(60)
                at_once.release()
            super().put(name, data)

    saver = Saver(
        SlowStore(tmp_path),
        SharedStore(),
        RankInfo(0, 1, 0, 1),
        attempt=0,
        slices=lambda: [Slice("a", (1000,), 0, {"value": tensor})],
        commit=lambda saved, state: commits.append(saved),
    )
    saver.begin(0, {"adam_step": 1, "skipped_steps": []})
    assert writing.wait(60)
    tensor.fill_(9.0)
    second = threading.Thread(target=saver.begin, args=(1, {"adam_step": 2, "skipped_steps": []}))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "training stands still until the save before is committed"
    assert commits == []
    held.set()
    second.join(60)
    saver.finish()
    assert [saved.step for saved in commits] == [0, 1]
    assert most == [True, True], "no two were in flight"
    assert commits[1].spent.stall_s > commits[0].spent.stall_s
    for saved, value in zip(commits, (0.0, 9.0), strict=True):
        reader = CheckpointReader(PosixStore(tmp_path), saved.folder, saved.manifest_sha256)
        assert torch.equal(reader.tensor("a"), torch.full((1000,), value))


# ---- saves that fail -----------------------------------------------------------------------------------------------


class RefusingStore(PosixStore):
    """Refuses to write names that match, as a full disk does for large files before small ones."""

    refused = "nothing"

    def put(self, name, data):
        if re.search(self.refused, name):
            raise StorageError(Fault(name, "no space left"))
        super().put(name, data)


class TwoRanks:
    """The savers of two ranks over one store, and what rank 0 committed."""

    def __init__(self, folder):
        self.store, self.commits, self.waited_s, kv = RefusingStore(folder), [], 0.0, SharedStore()
        self.savers = [
            Saver(
                self.store,
                kv,
                RankInfo(rank, 2, rank, 2),
                attempt=0,
                slices=lambda part=part: part,
                commit=self.commit,
                waited_s=lambda: self.waited_s,
            )
            for rank, part in enumerate(cut({"a": torch.arange(8.0)}, [3], 2))
        ]

    def commit(self, saved, state):
        self.commits.append(saved)

    def save(self, step):
        """Save on both ranks; gives what each says of it."""
        for saver in self.savers:
            saver.begin(step, {"adam_step": step, "skipped_steps": []})
        for saver in self.savers:
            saver._join()
        return [None if saver.failed is None else str(saver.failed) for saver in self.savers]


@pytest.mark.parametrize("refused", ["rank-00000", "rank-00001", "manifest"])
def test_a_refused_save_ends_nothing_on_any_rank_and_a_later_one_succeeds(tmp_path, refused):
    ranks = TwoRanks(tmp_path)
    ranks.store.refused = refused
    first, second = ranks.save(4)
    assert first == second
    assert "no space left" in first
    assert ranks.commits == []
    assert ranks.store.list_objects("checkpoints/") == [], "what was written of it would be in the next one's way"
    for saver in ranks.savers:
        saver.check()
        with pytest.raises(StorageError, match="no space left"):
            saver.finish()
    ranks.store.refused = "nothing"
    assert ranks.save(9) == [None, None]
    (saved,) = ranks.commits
    assert torch.equal(
        CheckpointReader(ranks.store, saved.folder, saved.manifest_sha256).tensor("a"), torch.arange(8.0)
    )
    for saver in ranks.savers:
        saver.finish()


def test_what_steps_waited_before_a_refused_save_is_recorded_with_the_next(tmp_path):
    ranks = TwoRanks(tmp_path)
    ranks.store.refused, ranks.waited_s = "rank", 2.0
    ranks.save(4)
    ranks.store.refused, ranks.waited_s = "nothing", 5.0
    ranks.save(9)
    assert [saved.spent.data_wait_s for saved in ranks.commits] == [5.0]


def test_saves_that_fail_for_too_long_end_the_attempt_on_all_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "GIVE_UP_S", 0.0)
    ranks = TwoRanks(tmp_path)
    ranks.store.refused = "rank-00001"
    for saver in ranks.savers:
        saver.begin(4, {"adam_step": 1, "skipped_steps": []})
    for saver in ranks.savers:
        with pytest.raises(StorageError, match="no space left"):
            saver._join()
        with pytest.raises(StorageError, match="no space left"):
            saver.check()


def test_a_success_between_failures_starts_the_time_anew(tmp_path, monkeypatch):
    ranks = TwoRanks(tmp_path)
    ranks.store.refused = "manifest"
    ranks.save(1)
    ranks.store.refused = "nothing"
    ranks.save(2)
    assert ranks.savers[0]._failing_since is None


def test_the_files_stay_where_it_is_not_known_whether_the_commit_is_in_the_log(tmp_path):
    ranks = TwoRanks(tmp_path)

    def unanswered(saved, state):
        raise StorageError(Fault("log/00000007.json", "no answer"))

    ranks.savers[0]._commit = unanswered
    assert ["no answer" in problem for problem in ranks.save(4)] == [True, True]
    assert len(ranks.store.list_objects("checkpoints/")) == 3


def test_any_other_failure_of_a_save_raises_in_the_training_thread(tmp_path):
    class BrokenStore(PosixStore):
        def put(self, name, data):
            raise ValueError("a fault of ours")

    part = [Slice("a", (4,), 0, {"value": torch.ones(4)})]
    saver = Saver(
        BrokenStore(tmp_path), SharedStore(), RankInfo(0, 1, 0, 1), attempt=0, slices=lambda: part, commit=print
    )
    saver.begin(0, {"adam_step": 1, "skipped_steps": []})
    with pytest.raises(ValueError, match="a fault of ours"):
        saver.finish()
