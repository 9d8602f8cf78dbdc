"""One file by its own path or URL: its SHA-256, and its bytes once they have it."""

import hashlib

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import Store
from gmml_cluster.store.verified import read_verified

_BLOCK_BYTES = 64 * 2**20


def file_at(url: str) -> tuple[Store, str]:
    """The store of the folder in which a file lies, and the file's name there.

    Raises:
        StorageError: no store has the URL's scheme.
    """
    folder, _, name = url.rpartition("/")
    return open_store(folder or "/"), name


def sha256_of(url: str) -> str:
    """SHA-256 of a file as hexadecimal digits, read block by block.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be read.
    """
    store, name = file_at(url)
    digest = hashlib.sha256()
    for start in range(0, store.stat(name).size, _BLOCK_BYTES):
        digest.update(store.get(name, start, _BLOCK_BYTES))
    return digest.hexdigest()


def read_file(url: str, sha256: str) -> bytes:
    """The bytes of a file that has this SHA-256.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be read, or its bytes are other ones however often they are read.
    """
    store, name = file_at(url)

    def check(data: bytes) -> None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            problem = (
                f"has SHA-256 {found[:12]}..., but {sha256[:12]}... was submitted: it was changed or damaged since"
            )
            raise StorageError(Fault(url, problem, "restore the file, or submit what it is now under another name"))

    return read_verified(lambda: store.get(name), check)
