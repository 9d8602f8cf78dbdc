"""Where checkpoints and maps lie within a run root."""


def checkpoint_folder(step: int, attempt: int) -> str:
    """Where an attempt writes its checkpoint of a step, within the run root."""
    return f"checkpoints/{step:08d}-{attempt:04d}"


def maps_folder(step: int, attempt: int) -> str:
    """Where the maps lie that the weights of a commit made, within the run root."""
    return f"maps/{step:08d}-{attempt:04d}"
