"""A row whose process leaves in every way; imports no torch, so that it starts quickly."""

import os
import subprocess
import sys
import time

from benchmarks.gpu_check.result import Result, Setting


def leave(variant: str, setting: Setting) -> Result:
    """End as the variant says; `hang` writes the pid of a process that it started to `setting.data`."""
    if variant == "abort":
        print("about to abort", flush=True)
        os.abort()
    if variant == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        setting.data.write_text(str(child.pid))
        time.sleep(600)
    if variant == "raise":
        raise ValueError("no such thing")
    return Result("ok", {"loss": 0.5})
