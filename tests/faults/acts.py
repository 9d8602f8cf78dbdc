"""What a rank does to itself, or meets, in a step: the faults that tests/faults/pool.py injects into real ranks."""

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import torch


def error() -> None:
    raise ValueError("the mask has 3 patches; the image has 2")


def assertion() -> None:
    loss = -1.0
    assert loss >= 0, "the loss timed out waiting for NCCL: out of memory"  # words alone prove nothing here


def leave() -> None:
    sys.exit(3)


def leave_at_once() -> None:
    os._exit(3)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang_up() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup it is ignored
    os.kill(os.getpid(), signal.SIGHUP)


def cpu_limit() -> None:
    os.kill(os.getpid(), signal.SIGXCPU)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def bus_error() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def illegal_instruction() -> None:
    os.kill(os.getpid(), signal.SIGILL)


def floating_point() -> None:
    os.kill(os.getpid(), signal.SIGFPE)


def hold_gil() -> None:
    ctypes.PyDLL(None).sleep(600)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def loop() -> None:
    while True:
        time.sleep(0.01)


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def wait_in_c() -> None:
    ctypes.CDLL(None).sleep(600)  # without the interpreter's lock, as a library that reads a dead mount


def recursion() -> None:
    recursion()


def host_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
    bytearray(2**40)


def tensor_memory() -> None:
    torch.empty(2**50)


def full_disk() -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(bytes(4096))


def open_files() -> None:
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))


def partition() -> None:
    """Every connection of this rank to the other is cut, in both directions."""
    for name in os.listdir("/proc/self/fd"):
        try:
            held = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or closed meanwhile
            continue
        listens = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if held.family in (socket.AF_INET, socket.AF_INET6) and not listens:
            with suppress(OSError):  # closed by the other side meanwhile
                held.shutdown(socket.SHUT_RDWR)
        held.close()
