"""The batch script of a run on SLURM: submitit's own, with our lines before and after its `srun`.

The setup keeps bash alive under the signals of a notice; at its exit the script asks `launch.slurm.restart` whether the
job starts again, and requeues it. docs/reference/batch-script.md has the rule and what it was measured on.
"""

import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import takewhile
from typing import Any

from gmml_cluster.errors import PreflightError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm import containers, options
from gmml_cluster.launch.slurm.folders import archive, job_folder
from gmml_cluster.run.codes import RESTARTS, UNFIT, UNMET

SHOWN_TOKEN = "<token>"
VERDICT_S = 60
PATIENCE_S = 300
_PLACEHOLDER = "t0ken" * 6

# bash without these traps dies of the first signal of a preemption, and nothing below runs. The ranks do not inherit
# them: slurmstepd starts those.
# GMML_RESTART: SLURM counts its requeues alone, and leaves the variable unset at first. Starts of this script in the
# job's own allocations are the lines of the file, and so are those of the jobs that this one succeeds.
# URG: submitit requeues by itself on its signal; URG is the one name that both Python's `signal` and sbatch know and
# that is harmless by default.
# SLURM_MEM_PER_*: set where gmml-submit ran within an allocation; they would outrank the job's own --mem in its steps.
# GMML_JOB: of an array's task SLURM_JOB_ID may be the whole array's number, and scontrol would then change all of it.
# GMML_KILLED: SLURM's word of the start before this one. Where a save takes longer than the notice, that script was
# killed with its ranks and logged nothing; rank 0 does so after its claim.
# gmml_environment: for a successor, which is to get what this job got and not what this script adds.
_GUARDS = """\
trap '' TERM CONT USR2
gmml_environment=$(export -p)
export SUBMITIT_PREEMPT_SIGNAL=URG
unset "${{!SLURM_MEM_PER_@}}"
gmml_files() {{ echo {files}; }}
export GMML_JOB=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
GMML_JOB=${{GMML_JOB:-$SLURM_JOB_ID}}
gmml_err=$(gmml_files "$GMML_JOB")_0_log.err
gmml_seen=$(wc -l < "$gmml_err")
{members}
gmml_nodes={nodes} gmml_notice={notice}
gmml_verdict_s={verdict_s} gmml_patience_s={patience_s} gmml_restarts={restarts} gmml_unfit={unfit}
gmml_set_python() {{ python=({python}); }}
gmml_blind=${{gmml_err%.err}}.restarts-without-log gmml_here=${{gmml_err%.err}}.restarts-here
gmml_bad= gmml_step=(--open-mode=append) gmml_requeued=${{SLURM_RESTART_COUNT:-0}}
export GMML_RESTART=$((gmml_requeued + $(cat "$gmml_here" 2>/dev/null | wc -l)))
export GMML_KILLED=$(tac "$gmml_err" | sed '/^gmml: start /q' | grep -o 'JOB .* DUE TO [A-Z ]*[A-Z]' | head -n 1)"""

# A sourced file may continue after a failing line of its own; the profile's lines must not.
_OWN = """\
gmml_depth=${{#BASH_SOURCE[@]}}
trap 'code=$?; [ ${{#BASH_SOURCE[@]}} -gt $gmml_depth ] ||
{{ echo "slurm.setup: $BASH_COMMAND: exited with $code" >&2; exit {unmet}; }}' ERR
{lines}
trap - ERR
set +e"""

# PYTHONSAFEPATH: a gmml_cluster folder in the job's working directory must not take the place of the submitted code.
_CODE = """\
echo {digest}'  '{archive} | sha256sum --check --status ||
{{ echo {archive}: not the submitted code >&2; exit {unmet}; }}
export PYTHONSAFEPATH=1 PYTHONPATH={archive}${{PYTHONPATH:+:$PYTHONPATH}}
export GMML_KILL_WAIT_S=$(scontrol show config | sed -n 's/^KillWait *= \\([0-9]*\\).*/\\1/p')"""

_IMPORTS = """\
{python} -m gmml_cluster.launch.imports --exit {unfit} {modules} || exit {unfit}"""

# srun starts the ranks in another root, where this script cannot look for modules.
_OTHER_ROOT = re.compile(r"--(container|environment|uenv|view)")


def text(*submissions: Submission) -> str:
    """The script of a run, or of an array of several, to the byte; made by submitit, which has no public way to ask."""
    made = executor(*submissions)
    return str(made._make_submission_file_text(made._submitit_command_str, ""))


def shown(submission: Submission) -> str:
    """The script with the token as `<token>`, whatever the submission's token is."""
    return text(replace(submission, token=_PLACEHOLDER)).replace(_PLACEHOLDER, SHOWN_TOKEN)


def arrays(submissions: Sequence[Submission]) -> list[list[Submission]]:
    """Runs of a sweep that can share a script, and so be tasks of one array: it differs by run and token alone."""
    groups: dict[object, list[Submission]] = {}
    for each in submissions:
        alike = text(replace(each, name="run", token=_PLACEHOLDER))
        groups.setdefault((each.queue, alike) if each.queue else each.token, []).append(each)
    return [part for group in groups.values() for part in ([group] if array_name(group) else [[e] for e in group])]


def executor(*submissions: Submission) -> Any:
    """The executor of submitit with all of the profile in it; needs no SLURM on this machine.

    Args:
        submissions: one, or those of one of `arrays`.

    Raises:
        PreflightError: a value would add a line to the script, or the job folder is none.
    """
    if faults := [fault for each in submissions for fault in options.control_characters(each)]:
        raise PreflightError(faults)
    import submitit  # takes 0.15 s

    from gmml_cluster.launch.slurm.array import submit_as_array

    class Executor(submitit.SlurmExecutor):  # a dry run works where there is no srun
        @classmethod
        def affinity(cls) -> int:
            return 2

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            """With its srun as a function, whose further arguments are in `gmml_step`."""
            before, _, after = super()._make_submission_file_text(command, uid).rpartition("\nsrun ")
            ranks, _, end = after.partition("\n")
            return f'{before}\ngmml_ranks() {{ srun "${{gmml_step[@]}}" {ranks}; }}\ngmml_ranks\n{end}'

        def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
            if len(delayed_submissions) == 1:
                return super()._internal_process_submissions(delayed_submissions)
            return submit_as_array(self, delayed_submissions)

    submission = submissions[0]
    slurm = submission.profile.slurm
    made = Executor(folder=job_folder(submission), python=_ranks_python(submission))
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    typed = {"gpus-per-node", "gpus_per_node"} & slurm.sbatch_args.keys()  # such as a100:8, in place of our line
    gpus = None if typed else slurm.gpus_per_node or None
    avoided = ",".join(filter(None, [slurm.exclude, *submission.excluded])) or None
    further = {"constraint": slurm.constraint, "exclude": avoided, "gpus_per_node": gpus}
    made.update_parameters(
        **{name: value for name, value in {**named, **further}.items() if value is not None},
        job_name=array_name(submissions),
        comment=submission.token,
        nodes=submission.plan.node_range.least,
        **options.shape(submission),
        time=math.ceil(slurm.time / 60),
        setup=setup_lines(*submissions),
        teardown=["gmml_after"],
        srun_args=options.srun_arguments(submission),
        additional_parameters=options.further_options(submission),
    )
    if len(submissions) > 1:
        at_once = submission.queue.parallel if submission.queue else None
        made.parameters |= {"map_count": len(submissions), "array_parallelism": at_once or len(submissions)}
    return made


def array_name(submissions: Sequence[Submission]) -> str:
    """What all runs' names begin with, by which `poll` knows their array; the name itself of a single run."""
    same = takewhile(
        lambda characters: len(set(characters)) == 1, zip(*(each.name for each in submissions), strict=False)
    )
    return submissions[0].name if len(submissions) == 1 else "".join(each[0] for each in same).rstrip("-._")


def setup_lines(*submissions: Submission) -> list[str]:
    """Shell lines before `srun`: guards, the end's function, environment, modules, the profile's own, code, imports."""
    submission = submissions[0]
    profile = submission.profile
    ours = {"GMML_GPUS": str(profile.slurm.gpus_per_node)} if profile.slurm.gpus_per_node else {}
    if submission.plan.node_range.most > submission.plan.node_range.least:
        ours["GMML_NO_KILL"] = "1"
    exported = sorted({**ours, **profile.variables}.items())
    variables = [f"export {name}={shlex.quote(value)}" for name, value in exported]
    own = _OWN.format(unmet=UNMET, lines="\n".join(profile.slurm.setup)) if profile.slurm.setup else ""
    code = _CODE.format(digest=submission.code.digest, archive=shlex.quote(str(archive(submission))), unmet=UNMET)
    imports = _IMPORTS.format(python=_ranks_python(submission), unfit=UNFIT, modules=shlex.join(submission.imports))
    if any(map(_OTHER_ROOT.match, options.srun_arguments(submission))):
        imports = ""
    modules = containers.module_lines(profile.slurm)
    kept = "\n".join(containers.variable_lines(profile.slurm, containers.kept_variables(submission)))
    parts = ["\n".join([_guards(submissions), *_teardown(), *variables, *modules]), own, code, kept, imports]
    return [line for part in parts for line in part.splitlines()]


def _ranks_python(submission: Submission) -> str:
    return containers.ranks_python(submission.profile.slurm, containers.own_folders(submission))


def _guards(submissions: Sequence[Submission]) -> str:
    submission = submissions[0]
    slurm = submission.profile.slurm
    files = str(job_folder(submission) / "%j")
    return _GUARDS.format(
        files='"$1"'.join(shlex.quote(part) if part else "" for part in files.split("%j")),
        members=_members(submissions),
        nodes=submission.plan.node_range.least,
        notice=round(slurm.notice),
        verdict_s=VERDICT_S,
        patience_s=PATIENCE_S,
        restarts=RESTARTS,
        unfit=UNFIT,
        python=slurm.python or shlex.quote(sys.executable),
    )


def _members(submissions: Sequence[Submission]) -> str:
    """Which run the job is of; in an array by the task's number."""
    lines = [f"gmml_run={shlex.quote(each.run_root)} gmml_token={shlex.quote(each.token)}" for each in submissions]
    if len(lines) == 1:
        return lines[0]
    cases = [f"{index}) {line} ;;" for index, line in enumerate(lines)]
    return "\n".join(["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"])


def _teardown() -> list[str]:
    """Lines of teardown.sh without its comments, which are for readers of the source."""
    lines = files(__package__).joinpath("teardown.sh").read_text().splitlines()
    code = (re.sub(r"\s# .*", "", line) for line in lines if not line.lstrip().startswith("#"))
    return [line for line in code if line.strip()]
