"""A batch script's word on the job that follows its own: `python -m gmml_cluster.launch.slurm.successor RUNROOT ...`.

Imports neither torch nor pydantic nor submitit.
"""

import sys
from collections.abc import Sequence

from gmml_cluster.errors import GmmlError
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Append `queued`: RUNROOT, token of the `submit` entry, number of the job."""
    run_root, submit, job = sys.argv[1:] if arguments is None else arguments
    try:
        protocol.queued(Log(open_store(run_root)), submit, job)
    except GmmlError as fault:
        print(f"gmml: {fault}; job {job} follows all the same", file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
