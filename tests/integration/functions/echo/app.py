# SPDX-License-Identifier: Apache-2.0
"""Answers what it got and where it ran; sleeps for as long as it is told."""

import os
import socket
import time

STARTED = time.time_ns()  # The same in all clones of a snapshot.


def boot_id():
    return open("/proc/sys/kernel/random/boot_id").read().strip()


def handler(event, context):
    if isinstance(event, (bytes, bytearray)):
        return {"bytes": len(event), "boot": boot_id()}
    if "say" in event:
        print(event["say"], flush=True)
    time.sleep(event.get("sleep", 0))
    if "answer_bytes" in event:
        return b"\x00" * event["answer_bytes"], "application/octet-stream"
    if "variables" in event:
        return {name: os.environ.get(name) for name in event["variables"]}
    if event.get("who"):
        return {"boot": boot_id(), "host": socket.gethostname(), "random": os.urandom(16).hex(), "started": STARTED,
                "now": time.time(), "monotonic": time.monotonic()}
    return {"echo": event, "boot": boot_id()}
