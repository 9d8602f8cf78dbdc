"""The submitted code: a zip of the import packages, named by its digest and unpacked once on each node.

Equal files give equal bytes, so that resuming with unchanged code stores nothing new. The package of the plug-in in use
is part of it.
"""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.errors import Fault, LaunchError, PreflightError

LIMIT_BYTES = 20 * 10**6
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """A zip of import packages and the sha256 of its bytes."""

    digest: str
    data: bytes

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "Snapshot":
        """Snapshot of these files: sorted, uncompressed, without dates or owners; equal files give equal bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                member = zipfile.ZipInfo(name, _EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, files[name])
        return cls(hashlib.sha256(out.getvalue()).hexdigest(), out.getvalue())

    @property
    def file_name(self) -> str:
        """`<digest>.zip`, its name in a run root's `code/`."""
        return f"{self.digest}.zip"


def take(*packages: Path, metadata: Mapping[str, bytes] | None = None, limit_bytes: int = LIMIT_BYTES) -> Snapshot:
    """Snapshot of packages as they lie on this machine: files that git tracks or would track, never ignored ones.

    Where git does not keep a package (installed from a wheel, no git), all its files but byte code and hidden ones.

    Args:
        packages: folders of packages, or files of modules outside of one.
        metadata: files that join them: name -> bytes.
        limit_bytes: greatest sum of the files' sizes.

    Raises:
        PreflightError: over the limit; names the ten largest files.
    """
    files = {
        str(name): package.parent / name
        for package in packages
        for name in _kept_by_git(package) or _all_files(package)
    }
    _refuse_bulk(packages, files, limit_bytes)
    return Snapshot.of({**{name: path.read_bytes() for name, path in files.items()}, **(metadata or {})})


def _kept_by_git(package: Path) -> list[Path]:
    command = ["git", "-C", str(package.parent), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run([*command, "--", package.name], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    names = [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]
    return [name for name in names if (package.parent / name).is_file()]


def _all_files(package: Path) -> list[Path]:
    found = [package] if package.is_file() else package.rglob("*")
    files = [path.relative_to(package.parent) for path in found if path.is_file()]
    return [path for path in files if path.suffix != ".pyc" and not any(part.startswith(".") for part in path.parts)]


def _refuse_bulk(packages: Sequence[Path], files: Mapping[str, Path], limit_bytes: int) -> None:
    sizes = sorted((path.stat().st_size, name) for name, path in files.items())
    total = sum(size for size, _ in sizes)
    if total <= limit_bytes:
        return
    largest = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for size, name in reversed(sizes[-10:]))
    raise PreflightError(
        Fault(
            ", ".join(str(package) for package in packages),
            f"the code to submit has {total / 1e6:.1f} MB; at most {limit_bytes / 1e6:g} MB are stored with a run",
            f"move these out of the package or let git ignore them: {largest}",
        )
    )


def cache_folder() -> Path:
    """This user's folder for code on this node, under the temporary folder; nobody else can write to it.

    Raises:
        LaunchError: the folder belongs to another user or is open to others.
    """
    folder = Path(tempfile.gettempdir()) / f"gmml-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        problem = "another user owns it or may write to it, and code that will run is unpacked there"
        raise LaunchError(Fault(str(folder), problem, "remove it"))
    return folder


def unpack(data: bytes, digest: str, cache: Path) -> Path:
    """Folder with the snapshot's packages, to be put first on PYTHONPATH; equal for all who ask with this digest.

    Any number of processes may call it at once: each unpacks into a folder of its own, and one rename wins. What is
    there already is compared with the zip: cleaners of temporary folders delete single files by age.

    Raises:
        LaunchError: the bytes are not those of the digest.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        problem = f"the zip has SHA-256 {found[:12]}...: it is damaged"
        raise LaunchError(Fault(f"code {digest[:12]}", problem, "submit again"))
    folder = cache / digest
    for _ in range(3):
        if _holds(folder, data):
            return folder
        _replace(folder, data)
    problem = "cannot be kept complete; something else removes its files"
    raise LaunchError(Fault(str(folder), problem, "clear it and resume"))


def holds_file(data: bytes, name: str) -> bool:
    """Whether a snapshot's zip has this file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return name in archive.namelist()


def _holds(folder: Path, data: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return all(_crc(folder / member.filename) == member.CRC for member in archive.infolist())


def _crc(path: Path) -> int | None:
    try:
        return zlib.crc32(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _replace(folder: Path, data: bytes) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder.parent))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(aside / "new")
        if folder.exists() and not _holds(folder, data):
            folder.rename(aside / "damaged")
        (aside / "new").rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
