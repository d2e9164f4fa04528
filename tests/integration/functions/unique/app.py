# SPDX-License-Identifier: Apache-2.0
"""Draws from everything that must differ between the clones of a snapshot, and tells what became of timers that were
armed before it. All generators have been used by then, so that a clone that kept their state would repeat it."""

import ctypes
import os
import random
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
import uuid

from hearth_snapshot import after_restore, before_snapshot

SECONDS = 5        # Of the timers.
PERIOD_SECONDS = 5
TFD_TIMER_ABSTIME = 1
libc = ctypes.CDLL(None, use_errno=True)


def read(path):
    with open(path) as file:
        return file.read().strip()


def draw():
    return {"getrandom": os.getrandom(16).hex(), "uuid4": str(uuid.uuid4()),
            "boot_id": read("/proc/sys/kernel/random/boot_id"), "hostname": socket.gethostname(),
            "machine-id": read("/etc/machine-id"), "RAND_bytes": ssl.RAND_bytes(16).hex(),
            "tempfile": tempfile.mktemp(), "random": "%016x" % random.getrandbits(64)}


class Timer:
    """A timerfd whose first expiration is at `date_ns` of its clock (timerfd_create(2))."""

    def __init__(self, clock, date_ns, period_seconds=0):
        self.clock, self.date_ns = clock, date_ns
        self.fd = libc.timerfd_create(clock, os.O_CLOEXEC)
        times = struct.pack("qqqq", period_seconds, 0, *divmod(date_ns, 1_000_000_000))
        if self.fd < 0 or libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, times, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd")

    def due(self):
        return bool(select.select([self.fd], [], [], 0)[0])

    def wait(self):
        """How often it has expired since the last time, once it has; and what its clock showed then."""
        count = struct.unpack("Q", os.read(self.fd, 8))[0]
        return count, time.clock_gettime_ns(self.clock)


draw()
rang = threading.Event()
armed = {}
woken = {}


def ring():
    armed["rang"] = time.monotonic_ns()
    rang.set()


@before_snapshot
def arm():
    armed["monotonic"], armed["realtime"] = time.monotonic_ns(), time.time_ns()
    timer = threading.Timer(SECONDS, ring)
    timer.daemon = True
    timer.start()
    armed["stand-still"] = Timer(time.CLOCK_MONOTONIC, armed["monotonic"] + SECONDS * 1_000_000_000)
    armed["date"] = Timer(time.CLOCK_REALTIME, armed["realtime"] + SECONDS * 1_000_000_000)
    armed["dates"] = Timer(time.CLOCK_REALTIME, armed["realtime"] + SECONDS * 1_000_000_000, PERIOD_SECONDS)


@after_restore
def wake():
    woken.update(monotonic=time.monotonic_ns(), realtime=time.time_ns(), rang=rang.is_set(),
                 due=armed["stand-still"].due())


def timers():
    """Nanoseconds all, of the guest's clocks."""
    at_date = armed["date"].due(), time.time_ns()
    missed, _ = armed["dates"].wait()
    told, waiting = {}, {armed[name].fd: name for name in ("dates", "stand-still")}
    while waiting:
        for fd in select.select(list(waiting), [], [])[0]:
            name = waiting.pop(fd)
            told[name] = armed[name].wait()
    rang.wait()
    again, date = told["dates"]
    return {"armed": armed["monotonic"], "armed_date": armed["realtime"], "woken": woken, "at_date": at_date,
            "missed": missed, "again": again, "date": date, "fired": told["stand-still"][1], "rang": armed["rang"]}


def handler(event, context):
    now = time.time_ns()
    if event["do"] == "leave":
        os._exit(0)
    if event["do"] == "timers":
        return timers()
    return {"now": now, **(draw() if event["do"] == "draw" else {})}
