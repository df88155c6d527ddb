"""Ray's workers ask, each with a warm teacher of its own. This process claims, gives out, listens and writes.

So a worker needs to see neither the store nor the other workers, and what one that dies had in hand is given to
another. Plain actors and not Ray Data: each answer is stored as it comes and a lost worker costs what it had in hand,
while a pipeline of blocks hands on whole blocks and makes a lost one again.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Protocol, runtime_checkable

from ekd.engine.crew import AHEAD, WINDOW, Batched
from ekd.engine.ray_crew import RayCrew, Share
from ekd.outside import visible
from ekd.types import Opens, Teacher

# No statistics to Ray's makers, and none of its own words on the terminal: what matters of them is said by us.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": as Ray does it on a Mac, nothing listens but on 127.0.0.1

SILENT = {"log_to_driver": False, "logging_level": logging.ERROR}
ADDRESS = re.compile(r"[A-Za-z0-9_.-]+:\d{1,5}")
HERE = ("127.", "localhost:")
REACHED = 10.0  # seconds in which a cluster's machine answers a knock


@runtime_checkable
class Served(Protocol):
    """A teacher behind servers."""

    concurrency: int  # requests at once for each
    endpoints: list[str]


@dataclass(frozen=True, kw_only=True)
class Ray:
    """address: of a cluster that runs, HOST:PORT; None: one is started on this machine, until the end of the
    block. workers: how many. cpus, gpus: of each; gpus None: 1 where the teacher is a model and there are any.
    in_flight: requests that each has at most; None: two batches, of a server twice what it does at once.
    """

    address: str | None
    workers: int
    cpus: float
    gpus: float | None
    in_flight: int | None

    def __post_init__(self) -> None:
        if self.address is not None and not ADDRESS.fullmatch(self.address):
            raise ValueError(
                f"engine.address is HOST:PORT of a cluster, or null, not {self.address!r}; the command runs on one of "
                "the cluster's machines, so there is no ray://"
            )
        if self.workers < 1:
            raise ValueError(f"engine.workers is 1 or more, not {self.workers}")
        if self.cpus <= 0:
            raise ValueError(f"engine.cpus (cores of a worker, or a part of one) is more than 0, not {self.cpus}")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise ValueError(
                f"engine.gpus (of a worker) is a part of one, or a whole number of them, 0 or more, not {self.gpus}"
            )
        if self.in_flight is not None and self.in_flight < 1:
            raise ValueError(f"engine.in_flight (requests of a worker) is 1 or more, not {self.in_flight}")

    @contextmanager
    def open(self, teacher: Teacher, *, again: bool) -> Iterator[RayCrew]:
        size = teacher.batch_size if isinstance(teacher, Batched) else 1
        in_flight = usual(teacher) if self.in_flight is None else self.in_flight
        if in_flight < size:
            raise ValueError(
                f"engine.in_flight={in_flight} is less than a batch (teacher.batch_size={size}): give {2 * size}, so "
                "that a worker has its next batch when one is done"
            )
        ray = imported(self.address)
        with started(ray) if self.address is None else member_of(ray, self.address):
            gpus = self._gpus(ray, teacher)
            self._check_room(ray, gpus)
            share = Share(size=size, window=WINDOW * size if size > 1 else AHEAD, in_flight=in_flight)
            crew = RayCrew(ray, teacher, share, self.workers, {"num_cpus": self.cpus, "num_gpus": gpus}, again=again)
            try:
                yield crew
            finally:
                crew.close()

    def _gpus(self, ray: Any, teacher: Teacher) -> float:
        if self.gpus is not None:
            return self.gpus
        return 1 if isinstance(teacher, Opens) and ray.cluster_resources().get("GPU", 0) >= 1 else 0

    def _check_room(self, ray: Any, gpus: float) -> None:
        there = ray.cluster_resources()
        for what, each, has in (("cpus", self.cpus, there.get("CPU", 0)), ("gpus", gpus, there.get("GPU", 0))):
            if self.workers * each > has:
                raise ValueError(
                    f"engine.workers={self.workers} with engine.{what}={each:g} want {self.workers * each:g}, and "
                    f"there are {has:g}: give fewer workers, or a smaller engine.{what}"
                )


def usual(teacher: Teacher) -> int:
    """Requests that keep a worker busy."""
    if isinstance(teacher, Batched):
        return 2 * teacher.batch_size
    return 2 * teacher.concurrency * len(teacher.endpoints) if isinstance(teacher, Served) else 2


def imported(address: str | None) -> Any:
    """The package, told to count nothing and where to listen. Raises ValueError where it is not installed."""
    loopback = address is None or address.startswith(HERE)
    if loopback and "ray" in sys.modules and os.environ.get(LOOPBACK) != "0":
        raise ValueError(
            f"engine=ray: Ray was imported before, and would listen on the network: set {LOOPBACK}=0 before that, or "
            "use a new process"
        )
    os.environ.update(QUIET | ({LOOPBACK: "0"} if loopback else {}))
    if address is None:  # others do not know it; without one Ray leaves one in ~/.ray for all that follow
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("the package ray is not installed: pip install 'ekd[ray]'") from error
    if ray.is_initialized():
        raise ValueError("engine=ray: this process is connected to Ray already; call ray.shutdown() first")
    return ray


@contextmanager
def started(ray: Any) -> Iterator[None]:
    """A cluster of this machine alone."""
    # a folder of its own, as Ray leaves its files; with a short name, as its sockets have to fit
    with tempfile.TemporaryDirectory(prefix="ekd-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            ray.init(address="local", _temp_dir=folder, include_dashboard=False, **SILENT)
            yield
        finally:
            ray.shutdown()


@contextmanager
def member_of(ray: Any, address: str) -> Iterator[None]:
    """A cluster that goes on afterwards. Raises ValueError where nothing answers, or what answers will not have us."""
    try:
        try:
            host, _, port = address.rpartition(":")  # Ray itself would try for a long time, in many words
            socket.create_connection((host, int(port)), timeout=REACHED).close()
            ray.init(address=address, **SILENT)
        except (OSError, OverflowError, RuntimeError, ray.exceptions.RayError) as error:
            reason = visible(" ".join(str(error).split()))[:300]
            raise ValueError(
                f"engine.address={address}: no Ray cluster there takes us: {reason}; this machine has to be one of the "
                "cluster's (ray start), with the same versions of Python and Ray, and for a cluster that wants a token "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN have to be set here"
            ) from error
        yield
    finally:
        ray.shutdown()
