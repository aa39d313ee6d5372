"""On what a measurement was made: without it the numbers say nothing."""

import os
import pathlib
import platform
import resource

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """The host and the interpreter."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    load_average: float  # of the minute before: near 0 unless others work on the machine too

    def __str__(self) -> str:
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB, Linux {self.kernel}, "
            f"Python {self.python}, load average before {self.load_average:.1f}"
        )


def describe() -> Machine:
    """What /proc and the interpreter say; "unknown" where /proc does not."""
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name"),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
    )


def _field(path: str, name: str) -> str:
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return "unknown"


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM (its sockets' buffers are the kernel's and not in it)."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all threads, user and kernel; in steps of 10 ms."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def raise_file_limit() -> int:
    """As many open files as the hard limit lets us have; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
