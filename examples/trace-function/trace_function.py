# SPDX-License-Identifier: Apache-2.0
"""Is busy for as long, and uses as much memory, as it is told; Python's standard library only."""

import json
import time

MEBIBYTE = 1024 * 1024


def resident_kb():
    """What this process holds of the machine's memory, in KiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmRSS")


def whole_number(event, name):
    value = event.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a whole number of 0 or more")
    return value


def fill(mebibytes):
    """Memory so that the process uses `mebibytes` in all; nothing if it does already."""
    missing = max(0, mebibytes * MEBIBYTE - resident_kb() * 1024)
    # Not zeros: zeroed memory costs nothing until it is written to.
    return b"\x01" * missing


def handler(event, context):
    """`event`: {"runtimeInMilliSec": 50, "memoryInMebiBytes": 64}, each 0 if it is left out."""
    start = time.perf_counter_ns()
    if not isinstance(event, dict):
        raise ValueError(f"send a JSON object, not {type(event).__name__}")
    end = start + whole_number(event, "runtimeInMilliSec") * 1_000_000
    memory = fill(whole_number(event, "memoryInMebiBytes"))
    used = resident_kb()
    while time.perf_counter_ns() < end:
        pass
    del memory
    return {"durationInMicroSec": (time.perf_counter_ns() - start) // 1000, "memoryUsageInKb": used}


if __name__ == "__main__":
    import sys

    print(json.dumps(handler(json.load(sys.stdin), None)))
