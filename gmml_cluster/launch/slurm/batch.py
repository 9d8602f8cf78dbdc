"""The batch script of a run on SLURM: submitit's own, with our lines before and after its `srun`.

The setup keeps bash alive under the signals of a notice; at its exit the script asks `launch.after` whether the job
goes again, and requeues it. Their rule was measured on SLURM 22.05 over preemption with and without grace, time limits
and cancels.
"""

import math
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.run.codes import RESTARTS, UNMET

SHOWN_TOKEN = "<token>"
AFTER_S = 60
PATIENCE_S = 300
OURS = frozenset(
    [
        "array",
        "comment",
        "error",
        "export",
        "job-name",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "requeue",
        "signal",
        "time",
    ]
)
_FIELDS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_rank",
    "exclude": "exclude",
    "mem": "memory_per_node",
    "partition": "partition",
    "qos": "qos",
}
_PLACE = "t0ken" * 6

# Whatever ends the script, a failing setup line too, is told by `gmml_after`.
_GUARDS = """\
trap '' TERM CONT USR2
export SUBMITIT_PREEMPT_SIGNAL=URG
unset "${{!SLURM_MEM_PER_@}}"
err={error_file}
seen=$(wc -l < "$err")"""

# A sourced file may go on after a failing line of its own; the profile's lines must not.
_OWN = """\
here=${{#BASH_SOURCE[@]}}
trap 'code=$?; [ ${{#BASH_SOURCE[@]}} -gt $here ] ||
{{ echo "slurm.setup: $BASH_COMMAND: left with $code" >&2; exit {unmet}; }}' ERR
{lines}
trap - ERR
set +e"""

_CODE = """\
echo {digest}'  '{archive} | sha256sum --check --status ||
{{ echo {archive}: not the submitted code >&2; exit {unmet}; }}
export PYTHONSAFEPATH=1 PYTHONPATH={archive}${{PYTHONPATH:+:$PYTHONPATH}}
export GMML_KILL_WAIT_S=$(scontrol show config | sed -n 's/^KillWait *= \\([0-9]*\\).*/\\1/p')"""

# The code, the state and the reason are taken before anything else; at a preemption without grace what is left is a
# part of KillWait, and a script that is killed leaves the restart to SLURM. A controller that is away is waited for.
_AFTER = """\
ask() {{
until told=$(timeout 30 scontrol "$@" 2>&1); do
case "$told" in ''|*contact*|*connect*|*"timed out"*) ;; *) break ;; esac
[ "$SECONDS" -lt "$patience" ] || break
sleep 2
done
echo "$told"
}}
gmml_after() {{
rc=$?
trap '' TERM CONT USR2
trap - ERR EXIT
set +eu
restart=${{SLURM_RESTART_COUNT:-0}}
why=$(tail -n +$((seen+1)) "$err" | grep -o 'JOB .* DUE TO .*[A-Z]' | sed 's/.*DUE TO //' | tail -1)
limit={after_s} patience=$((SECONDS + {patience_s}))
[ -n "$why" ] && limit=$((${{GMML_KILL_WAIT_S:-30}} / 3 + 1)) patience=$((SECONDS + limit))
st=$(ask -o show job "$SLURM_JOB_ID" | tr ' ' '\\n' | sed -n 's/^JobState=//p')
shielded='trap "" TERM CONT USR2; exec env "$@"'
verdict=$(set -o pipefail; timeout -s KILL $limit sh -c "$shielded" sh {python} -m gmml_cluster.launch.restart \
{run_root} --submit {token} --job "$SLURM_JOB_ID" --restart "$restart" --rc "$rc" --state "$st" --why "$why" \
--errors "$err" --seen "${{seen:-0}}" | tail -n 1)
asked=$?
case "$verdict/$asked/$rc" in
requeue/*|nothing/*) ;;
*/12[67]/*) verdict=nothing; echo "slurm.python: "{shown_python}": cannot be started here" >&2 ;;
*/0|*/78) verdict=nothing ;;
*) [ "$restart" -lt {restarts} ] && verdict=requeue ;;
esac
echo "gmml: ranks ended with $rc, job is $st${{why:+ due to $why}}, restart $restart: ${{verdict:-nothing}}"
case "$verdict/$st/$why" in
requeue/RUNNING/*|requeue/COMPLETING/PREEMPTION|"requeue/COMPLETING/TIME LIMIT") ask requeue "$SLURM_JOB_ID" ;;
esac
exit $rc
}}
trap gmml_after EXIT"""


def job_folder(submission: Submission) -> Path:
    """Folder of each job's script and logs, with `%j` for the job's number.

    Raises:
        PreflightError: the root is an object store and the profile names no folder.
    """
    given = submission.profile.slurm.folder or f"{submission.root.rstrip('/').removeprefix('file://')}/.slurm"
    if "://" in given:
        told = f"{given!r} is no folder; job scripts and logs need one on a file system that all nodes share; name one"
        raise PreflightError(Fault("slurm.folder", told))
    folder = Path(given).expanduser().absolute()
    return folder if "%j" in given else folder / "%j"


def shared_folder(submission: Submission) -> Path:
    """The part of the job folder that does not depend on the job's number; pickles and code lie there."""
    folder = job_folder(submission)
    cut = next(place for place, part in enumerate(folder.parts) if "%j" in part)
    return Path(*folder.parts[:cut])


def archive(submission: Submission) -> Path:
    """Where the snapshot lies for all nodes."""
    return shared_folder(submission) / "code" / submission.code.file_name


def text(submission: Submission) -> str:
    """The script, to the byte; made by submitit, which has no public way to ask for it."""
    made = executor(submission)
    return str(made._make_submission_file_text(made._submitit_command_str, ""))


def shown(submission: Submission) -> str:
    """The script with the token as `<token>`, whatever the submission's token is."""
    return text(replace(submission, token=_PLACE)).replace(_PLACE, SHOWN_TOKEN)


def executor(submission: Submission) -> Any:
    """The executor of submitit with all of the profile in it; needs no SLURM on this machine."""
    import submitit

    class Executor(submitit.SlurmExecutor):  # a dry run works where there is no srun
        @classmethod
        def affinity(cls) -> int:
            return 2

    slurm = submission.profile.slurm
    made = Executor(folder=job_folder(submission), python=slurm.python)
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    typed = {"gpus-per-node", "gpus_per_node"} & slurm.sbatch_args.keys()  # such as a100:8, in place of our line
    gpus = None if typed else slurm.gpus_per_node or None
    placed = {"constraint": slurm.constraint, "exclude": slurm.exclude, "gpus_per_node": gpus}
    made.update_parameters(
        **{name: value for name, value in {**named, **placed}.items() if value is not None},
        job_name=submission.name,
        comment=submission.token,
        nodes=submission.plan.node_range.least,
        **_shape(submission),
        time=math.ceil(slurm.time / 60),
        setup=setup_lines(submission),
        teardown=["gmml_after"],
        srun_args=_srun_arguments(submission),
        additional_parameters=_further_options(submission),
    )
    return made


def setup_lines(submission: Submission) -> list[str]:
    """Shell lines before `srun`: guards, what follows, environment, the user's own, the code first on the path."""
    profile = submission.profile
    stderr = str(job_folder(submission) / "%j_0_log.err")
    guards = _GUARDS.format(error_file='"$SLURM_JOB_ID"'.join(shlex.quote(part) for part in stderr.split("%j")))
    variables = [f"export {name}={shlex.quote(value)}" for name, value in sorted(profile.environment.items())]
    own = _OWN.format(unmet=UNMET, lines="\n".join(profile.slurm.setup)) if profile.slurm.setup else ""
    code = _CODE.format(digest=submission.code.digest, archive=shlex.quote(str(archive(submission))), unmet=UNMET)
    return [*guards.split("\n"), *_after(submission), *variables, *own.splitlines(), *code.split("\n")]


def _after(submission: Submission) -> list[str]:
    """Shell lines of `gmml_after`: ask `launch.after`, else go by the bare rule; requeue while SLURM lets us."""
    python = submission.profile.slurm.python or shlex.quote(sys.executable)
    return _AFTER.format(
        after_s=AFTER_S,
        patience_s=PATIENCE_S,
        python=python,
        shown_python=shlex.quote(python),
        run_root=shlex.quote(submission.run_root),
        token=shlex.quote(submission.token),
        restarts=RESTARTS,
    ).split("\n")


def refused_options(submission: Submission) -> list[Fault]:
    """Options of sbatch that the profile must not give by name: the restart depends on them, or a field has them."""
    names = {re.sub("_", "-", name) for name in submission.profile.slurm.sbatch_args}
    ours = dict.fromkeys(names & OURS, "is set by the launcher itself; it cannot be changed; remove it")
    fields = {name: f"has a field of its own; write slurm.{_FIELDS[name]} instead" for name in names & _FIELDS.keys()}
    return [Fault("slurm.sbatch_args", f"{name!r} {told}") for name, told in sorted({**ours, **fields}.items())]


def _shape(submission: Submission) -> dict[str, int]:
    """CPUs and tasks of a node.

    With `--ntasks-per-node` SLURM 22.05 gives a range of nodes fewer than are free (one for `1-3`), so a range asks for
    one task of a node's CPUs; srun divides it among the ranks.
    """
    ranks, cpus = submission.plan.ranks_per_node, submission.profile.slurm.cpus_per_rank
    if submission.plan.node_range.most > submission.plan.node_range.least:
        return {"cpus_per_task": ranks * cpus}
    return {"ntasks_per_node": ranks, "cpus_per_task": cpus}


def _srun_arguments(submission: Submission) -> list[str]:
    tasks = [
        f"--ntasks-per-node={submission.plan.ranks_per_node}",
        f"--cpus-per-task={submission.profile.slurm.cpus_per_rank}",
    ]
    return [*tasks, "--kill-on-bad-exit=1", "--export=ALL", *submission.profile.slurm.srun_args]


def _further_options(submission: Submission) -> dict[str, str | bool]:
    slurm, nodes = submission.profile.slurm, submission.plan.node_range
    options: dict[str, str | bool] = {"requeue": True, "open-mode": "append", "signal": f"USR2@{round(slurm.notice)}"}
    if nodes.most > nodes.least:
        options["nodes"] = f"{nodes.least}-{nodes.most}"
    if slurm.memory_per_node is not None:
        options["mem"] = f"{math.ceil(slurm.memory_per_node / 2**20)}M"
    given = {name.replace("_", "-"): value for name, value in slurm.sbatch_args.items() if value is not False}
    if "no-requeue" in given:
        del options["requeue"]
    return {**options, **given}
