# SPDX-License-Identifier: Apache-2.0
"""Does the one bad thing that it is asked to do."""

import os
import signal
import subprocess
import sys
import time


def throw():
    raise ValueError("as asked: ä")


def leave():
    os._exit(3)


def raise_exit():
    sys.exit(4)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def never_answer():
    while True:
        time.sleep(60)


def spin():
    while True:
        pass


def answer_much():
    return "x" * 7_000_000


def not_json():
    return {"this": object()}


def fill_disk():
    with open("/tmp/fill", "wb") as file:
        while True:
            file.write(b"x" * 1_000_000)


def fill_memory():
    hoard = []
    while True:
        hoard.append(b"x" * 1_000_000)


def fork_without_end():
    while True:
        os.fork()


def leave_a_child():
    subprocess.Popen(["sleep", "100000"], start_new_session=True)
    return {"left": "a child that holds stdout"}


def close_everything():
    os.closerange(0, 256)
    return {"closed": True}


def flood_output():
    for _ in range(20_000):
        print("x" * 1000)
    return {"printed": 20_000_000}


def handler(event, context):
    if event["do"] == "nothing":
        return {"fine": True}
    return globals()[event["do"]]()
