"""Tasks on processes: each done once, in any order; a worker that dies is named with its task."""

import os
import signal
from dataclasses import dataclass

import pytest

from gmml_cluster.data.workers import InProcess, Processes, workers_of
from gmml_cluster.errors import DataError, WorkerLost

TASKS = 40


@dataclass(frozen=True)
class Task:
    number: int

    @property
    def name(self):
        return f"shard-{self.number}"


def square(task):
    return task.number**2


def die_at_7(task):
    if task.number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number


def fail_at_7(task):
    if task.number == 7:
        raise DataError("damaged")
    return task.number


class Counted:
    """Tasks that say how many of them were taken."""

    def __init__(self):
        self.taken = 0

    def __iter__(self):
        for number in range(TASKS):
            self.taken += 1
            yield Task(number)


@pytest.mark.parametrize("workers", [InProcess(), Processes(2)], ids=["here", "processes"])
def test_each_task_is_done_once_and_few_are_taken_ahead(workers):
    tasks, found = Counted(), []
    for result in workers.map(square, tasks):
        found.append(result)
        assert tasks.taken <= len(found) + 8  # two in hand for each worker, and as many again when those are done
    assert sorted(found) == [number**2 for number in range(TASKS)]


def test_a_worker_that_is_killed_is_a_fault_that_names_its_task():
    with pytest.raises(WorkerLost, match=r"shard-7\b.*: the worker at it .*(SIGKILL|died).* fewer --workers"):
        list(Processes(2).map(die_at_7, map(Task, range(TASKS))))


def test_what_a_task_raises_comes_out_and_no_further_one_is_begun():
    tasks = Counted()
    with pytest.raises(DataError, match="damaged"):
        list(Processes(2).map(fail_at_7, tasks))
    assert tasks.taken < TASKS


def test_one_worker_is_this_process():
    assert isinstance(workers_of(1), InProcess)
    assert isinstance(workers_of(3), Processes)
