# SPDX-License-Identifier: Apache-2.0
"""Answers what it got and where it ran; sleeps for as long as it is told."""

import time

BOOT_ID = open("/proc/sys/kernel/random/boot_id").read().strip()


def handler(event, context):
    if isinstance(event, (bytes, bytearray)):
        return {"bytes": len(event), "boot": BOOT_ID}
    if "say" in event:
        print(event["say"], flush=True)
    time.sleep(event.get("sleep", 0))
    if "answer_bytes" in event:
        return b"\x00" * event["answer_bytes"], "application/octet-stream"
    return {"echo": event, "boot": BOOT_ID}
