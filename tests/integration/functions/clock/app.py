# SPDX-License-Identifier: Apache-2.0
"""Reads the guest's clock many times in a row, and sleeps by it."""

import time

READINGS = 2000


def handler(event, context):
    readings = [time.monotonic_ns() for _ in range(READINGS)]
    begin = time.monotonic()
    time.sleep(event["sleep"])
    return {"readings": {"all": READINGS, "different": len(set(readings))}, "slept": time.monotonic() - begin}
