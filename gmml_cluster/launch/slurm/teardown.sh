# shellcheck shell=bash disable=SC2153,SC2154
# The end of every batch script. batch.py puts this file into the script, without its comments, before the profile's
# setup lines; before it, it sets GMML_JOB, gmml_environment, gmml_err, gmml_seen, gmml_run, gmml_token, gmml_nodes, gmml_notice, gmml_verdict_s,
# gmml_patience_s, gmml_restarts, gmml_unfit and the functions gmml_set_python, which fills the array `python`, and
# gmml_files, the beginning of the paths of a job's files. Behind the setup lines it makes submitit's srun line the function gmml_ranks, with the options of gmml_step.
# Measured on SLURM 22.05.8 with submitit 1.5.4; the tables are in docs/reference/batch-script.md.

# scontrol, asked again while its controller is away. A controller that restarts answers within seconds; a job whose
# verdict was reached then must not be lost.
gmml_ask() {
    local answer
    until answer=$(timeout 30 scontrol "$@" 2>&1); do
        # Any other failure is an answer, such as "Job is pending execution" where SLURM has requeued the job itself.
        case $answer in '' | *contact* | *connect* | *"timed out"*) ;; *) break ;; esac
        [ "$SECONDS" -lt "$gmml_deadline" ] || break
        sleep 2
    done
    echo "$answer"
}

# The rule without the log: any code but "never" and "unfit" comes back, 0 too, because srun can leave 0 although the
# ranks never ended. At most gmml_restarts times since the log was last reached: a count of all restarts, as
# SLURM_RESTART_COUNT is, would end a job for good in its first outage after that many preemptions.
gmml_blind_verdict() {
    local count
    case $1 in 78 | "$gmml_unfit") echo nothing && return ;; esac
    count=$(cat "$gmml_blind" 2>/dev/null)
    [ "${count:-0}" -lt "$gmml_restarts" ] || { echo nothing && return; }
    echo $((${count:-0} + 1)) >"$gmml_blind"
    echo requeue
}

# The value of a field of the job, as SLURM showed it last.
gmml_field() { tr ' ' '\n' <<<"$gmml_job" | sed -n "s/^$1=//p"; }

# Whether the nodes are still this start's. A script whose node lost its daemon lives on while SLURM has started the job
# elsewhere: srun would put its ranks beside those.
gmml_is_mine() {
    [ "$(gmml_field JobState)/$(gmml_field Restarts)" = "RUNNING/$gmml_requeued" ] &&
        case $(gmml_field PreemptTime) in '' | None | Unknown | N/A) ;; *) false ;; esac
}

# Nodes that SLURM still has for this job without the one that is to be excluded: excluding the last spare node would
# leave the job pending for ever.
gmml_spare() {
    scontrol -o show node 2>/dev/null | grep -E "Partitions=([^ ]*,)?${SLURM_JOB_PARTITION}[, ]" |
        grep -vE 'State=[^ ]*(DOWN|DRAIN|FAIL|NOT_RESPONDING|\*)' | sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' |
        grep -vxFc -f <(tr ',' '\n' <<<"$1")
}

# What a job is to avoid: the nodes that the profile excludes, and those of $1, if enough others are left.
gmml_avoided() {
    local excluded
    [ "$(gmml_spare "$1")" -ge "$gmml_nodes" ] || { echo "gmml: too few nodes to exclude $1" >&2 && return; }
    excluded=$(gmml_field ExcNodeList)
    case $excluded in '' | '(null)') excluded= ;; *) excluded+=, ;; esac
    echo "$excluded$1"
}

# Only a pending job takes ExcNodeList, so this follows the requeue. The option replaces the list.
gmml_exclude() {
    local avoided
    avoided=$(gmml_avoided "$1")
    [ -z "$avoided" ] || gmml_ask update "JobId=$GMML_JOB" "ExcNodeList=$avoided"
}

# Submits the script of the job $1 once more, without the nodes of $2, and prints the new job's number, or why there is
# none. An array's task becomes an array of that task alone, as the script asks for all of them. sbatch hands its
# environment on: it gets that of this job's submission. The job begins after 10 s, as its files must be there first. A
# subshell, so that this script keeps its own environment.
gmml_submit() (
    local index=$SLURM_ARRAY_TASK_ID
    # A setup line may trace commands: the environment holds secrets.
    { set +x; } 2>/dev/null
    local names name
    mapfile -t names < <(compgen -e)
    unset "${names[@]}" 2>/dev/null
    eval "$gmml_environment"
    for name in "${!SLURM_@}" "${!SBATCH_@}"; do
        case $name in SLURM_CLUSTERS | SLURM_CONF | SLURM_JWT) ;; *) unset "$name" ;; esac
    done
    timeout 30 sbatch --parsable --begin=now+10 ${index:+"--array=$index"} ${2:+"--exclude=$2"} "$(gmml_files "$1")_submission.sh" 2>&1
)

# Hands the run on to another job, under the same token, where SLURM refuses to requeue this one. A successor may claim
# before the log has its `queued`, and without it: by that entry alone others learn of it.
gmml_succeed() {
    local answer from to
    from=$(gmml_files "$GMML_JOB")
    answer=$(gmml_submit "$GMML_JOB" "${1:+$(gmml_avoided "$1")}")
    answer=${answer%%;*}
    case $answer in '' | *[!0-9]*) echo "gmml: no successor: $answer; gmml resume continues the run" && return ;; esac
    answer+=${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
    to=$(gmml_files "$answer")
    mkdir -p "${to%/*}"
    # Its starts are numbered behind this job's. One without the file would claim nothing, as its number came before.
    # shellcheck disable=SC2046
    printf '\n%.0s' $(seq 0 "$GMML_RESTART") >"${to}_0_log.restarts-here"
    cp "${from}_submission.sh" "${to}_submission.sh"
    cp "${from}_submitted.pkl" "${to}_submitted.pkl"
    [ ! -e "$gmml_blind" ] || cp "$gmml_blind" "${to}_0_log.restarts-without-log"
    "${python[@]}" -m gmml_cluster.launch.slurm.successor "$gmml_run" "$gmml_token" "$answer"
    echo "gmml: job $answer follows"
}

# Ends a start that is over in the log and asks what comes next, into `verdict`: here, requeue or nothing. $1 is the
# ranks' exit code.
gmml_judge() {
    local answer asked nodes listed least limit=$gmml_verdict_s
    gmml_deadline=$((SECONDS + gmml_patience_s))
    # SLURM appends to the file over all starts, so only what this start added counts. The step's lines say STEP.
    why=$(tail -n "+$((gmml_seen + 1))" "$gmml_err" | grep -o 'JOB .* DUE TO [A-Z ]*[A-Z]' | sed 's/.*DUE TO //' | tail -n 1)
    if [ -n "$why" ]; then
        # KILL comes KillWait after the first signal, and the ranks have used a part of it. A script that is killed
        # leaves the restart to SLURM, which under PreemptMode=CANCEL does not restart.
        limit=$((${GMML_KILL_WAIT_S:-30} / 3 + 1))
        gmml_deadline=$((SECONDS + limit))
    fi
    gmml_job=$(gmml_ask -o show job "$GMML_JOB")
    state=$(gmml_field JobState)
    # Without a reason COMPLETING is a cancel or a lost node, which the job's own list no longer names. While the job
    # runs that list is what ranks can be started on.
    case $state/$why in COMPLETING/) listed=$SLURM_JOB_NODELIST ;; RUNNING/*) listed=$(gmml_field NodeList) ;; esac
    [ -z "$listed" ] || nodes=$(timeout 10 scontrol -o show node "$listed" 2>/dev/null |
        sed -n 's/^NodeName=\([^ ]*\) .* State=\([^ ]*\).*/\1=\2/p')
    # A setup that failed leaves no function: it is run again by a requeue alone.
    declare -F gmml_ranks >/dev/null && gmml_is_mine && least=$gmml_nodes
    gmml_set_python
    # `timeout` gives its child TERM at default again, so the child ignores it once more: a cancel during the verdict
    # ended it otherwise. The option -s KILL is for a Python that hangs in a file system.
    # shellcheck disable=SC2016
    answer=$(set -o pipefail; timeout -s KILL "$limit" sh -c 'trap "" TERM CONT USR2; exec env "$@"' sh \
        "${python[@]}" -m gmml_cluster.launch.slurm.restart "$gmml_run" --submit "$gmml_token" --job "$GMML_JOB" \
        --restart "$GMML_RESTART" --rc "$1" --errors "$gmml_err" --seen "$gmml_seen" --notice "$gmml_notice" \
        --scheduler-job "$gmml_job" --nodes "$nodes" ${least:+--least "$least"} --bad "$gmml_bad" | tail -n 1)
    asked=$?
    read -r verdict details <<<"$answer"
    case $verdict/$asked in
    here/0 | requeue/0 | nothing/0) rm -f "$gmml_blind" ;;
    */12[67])
        # Nothing of ours can run here; another start would end the same way.
        verdict=nothing
        echo "slurm.python: ${python[*]}: cannot be started here" >&2
        ;;
    *) verdict=$(gmml_blind_verdict "$1") details='' ;;
    esac
    echo "gmml: ranks ended with $1, job is $state${why:+ due to $why}, restart $GMML_RESTART: $verdict"
}

# Sends what people want to hear of. A job that ends would take the sender along, so that one is waited for; nothing is
# sent before a requeue, which kills this script: the next start sends it.
gmml_notify() {
    case $verdict in
    here) "${python[@]}" -m gmml_cluster.launch.notify "$gmml_run" & ;;
    nothing) timeout 60 "${python[@]}" -m gmml_cluster.launch.notify "$gmml_run" --over ;;
    esac
}

# Waits as the verdict says, and makes ready for another start on these nodes; fails where they are no longer ours. A
# notice that comes while no rank runs reaches nobody: SLURM's record of the job shows it.
gmml_prepare() {
    local pause count out bad
    read -r pause count out bad <<<"$details"
    [ "$out" != - ] || out=
    sleep "$pause"
    gmml_job=$(gmml_ask -o show job "$GMML_JOB")
    # The number of this start must not come twice, so without the line there is no start.
    gmml_is_mine && echo >>"$gmml_here" || return 1
    GMML_RESTART=$((GMML_RESTART + 1))
    unset GMML_KILLED
    gmml_seen=$(wc -l <"$gmml_err")
    # --overlap: SLURM frees the CPUs of a step that lost a node only at the end of the job.
    # shellcheck disable=SC2034
    gmml_step=(--open-mode=append --overlap "--nodes=$count" ${out:+"--exclude=$out"})
    gmml_bad=$bad
}

gmml_after() {
    # First of all: any command changes $?, and submitit's script has no `set -e` that would keep it.
    local rc=$?
    local verdict details state why python answer
    # The whole batch step is signalled at a preemption or a cancel. An ignored signal is inherited by children, a
    # handler is not.
    trap '' TERM CONT USR2
    # A failing line of this function must neither run the setup's ERR trap nor this function once more.
    trap - ERR EXIT
    set +eu
    gmml_judge "$rc"
    gmml_notify
    while [ "$verdict" = here ]; do
        gmml_prepare || { gmml_judge "$rc"; break; }
        gmml_ranks
        rc=$?
        gmml_judge "$rc"
        gmml_notify
    done
    # The nodes are sound, and no file can be written.
    [ "$verdict" != here ] || verdict=requeue details=''
    # A requeue at COMPLETING revives the job under the same id even where PreemptMode is CANCEL, and is a harmless
    # refusal where SLURM requeues by itself, as after NODE FAILURE. Without a reason it would revive a cancelled job.
    case $verdict/$(gmml_field JobState)/$why in
    requeue/RUNNING/* | requeue/COMPLETING/PREEMPTION | "requeue/COMPLETING/TIME LIMIT" | "requeue/COMPLETING/NODE FAILURE")
        answer=$(gmml_ask requeue "$GMML_JOB")
        case $answer in
        *disabled*) gmml_succeed "$details" ;;
        *) [ -z "$details" ] || gmml_exclude "$details" ;;
        esac
        ;;
    esac
    # srun can leave 0 although the ranks never ended, and 0 is what `--dependency=afterok` waits for.
    [ "$rc" != 0 ] || [ "$verdict $details" = "nothing finished" ] || rc=1
    exit "$rc"
}
trap gmml_after EXIT
