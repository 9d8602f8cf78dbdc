"""What this machine offers, as CUDA would list its GPUs to a process."""

import pytest

from gmml_cluster.plan.machine import this_machine

FOUR = """\
0, GPU-aaaa1111, 81559, Disabled
1, GPU-bbbb2222, 81559, [N/A]
2, GPU-cccc3333, 40960, Disabled
3, GPU-cccc4444, 81559, Disabled
"""
SLICED = """\
0, GPU-aaaa1111, 81559, Enabled
1, GPU-bbbb2222, 81559, Enabled
"""
MIB = 2**20


@pytest.fixture
def node(monkeypatch, tmp_path):
    """Give this machine device files and a driver's tool; no text: the tool fails."""

    def give(files, listing=None, visible=None):
        smi = tmp_path / "nvidia-smi"
        smi.write_text(
            "#!/bin/sh\necho no driver\nexit 9\n" if listing is None else f"#!/bin/sh\ncat <<E\n{listing}E\n"
        )
        smi.chmod(0o755)
        monkeypatch.setattr("gmml_cluster.plan.machine._SMI", (str(smi),))
        monkeypatch.setattr("os.listdir", lambda folder: files)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = this_machine()
        return found.gpus, found.gpu_bytes

    return give


FILES = ["nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps", "nvidia-modeset", "null"]


@pytest.mark.parametrize(
    ("visible", "gpus", "mebibytes"),
    [
        (None, 4, 40960),
        ("", 0, None),
        ("-1", 0, None),
        ("NoDevFiles", 0, None),
        ("1", 1, 81559),
        ("3, 0", 2, 81559),
        ("0,-1,1", 1, 81559),  # CUDA ignores what follows
        ("7", 0, None),
        ("0,7,1", 1, 81559),
        ("1,1", 1, 81559),
        ("GPU-bbbb,GPU-cccc3", 2, 40960),
        ("GPU-dddd", 0, None),
    ],
)
def test_gpus_are_those_that_cuda_shows_to_a_process(node, visible, gpus, mebibytes):
    assert node(FILES, FOUR, visible) == (gpus, None if mebibytes is None else mebibytes * MIB)


def test_of_mig_slices_a_process_sees_one_of_unknown_memory(node):
    assert node(FILES, SLICED) == (1, None)
    assert node(FILES, SLICED, "MIG-1f2e,MIG-3d4c") == (1, None)
    assert node(FILES, FOUR, "MIG-1f2e") == (0, None)


def test_a_container_may_have_the_files_of_some_gpus_alone(node):
    assert node(["nvidia2", "nvidia5", "nvidiactl"], "0, GPU-a, 100, [N/A]\n1, GPU-b, 90, [N/A]\n") == (2, 90 * MIB)
    assert node(["nvidia2", "nvidia5", "nvidiactl"]) == (2, None)
    assert node(["nvidia2", "nvidia5", "nvidiactl"], visible="1") == (1, None)
    assert node(["nvidia2", "nvidia5", "nvidiactl"], visible="GPU-a,GPU-b,GPU-c") == (2, None)
    assert node(["dxg"], "0, GPU-a, 100, [N/A]\n") == (1, 100 * MIB)  # WSL has no other files


def test_the_drivers_other_files_are_no_gpus(node):
    assert node(["nvidiactl", "nvidia-uvm", "nvidia-caps", "null"], FOUR) == (0, None)


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    limits = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr("gmml_cluster.plan.machine._CGROUP_LIMITS", limits)
    physical = this_machine().memory_bytes
    limits[0].write_text("max\n")
    assert this_machine().memory_bytes == physical > 2**20
    limits[0].write_text("1048576\n")
    assert this_machine().memory_bytes == 2**20
    limits[1].write_text("4096\n")
    assert this_machine().memory_bytes == 4096
