# SPDX-License-Identifier: Apache-2.0
"""kill -9 while a snapshot is made and while one is restored: the store stays whole, and nothing is left. A few moments
of each, more with --full. (Each step of the store itself: control-plane/snapshots/faults_test.cc.)"""

import os
import signal
import threading
import time

from harness import HERE, Hearth, await_true, check
from .registry import case, cases
from .snapshots import await_ready, new_instances, snapshots, start_kind

# At what percent of a deployment (control-plane/api/deployer.cc) its snapshot is how far made.
MAKING = [("its template boots", 30), ("it is stored", 81), ("it is restored for the first time", 87),
          ("its template initialises", 55), ("its template is parked and saved", 75)]


def check_store(hearth, kept):
    """What the store has on its disk: `kept` snapshots, and nothing that is half made."""
    store = hearth.folder / "data/snapshots"
    found = [path.name for path in (store / "snapshots").iterdir()]
    check(len(found) == kept, f"{len(found)} snapshots are stored, not {kept}")
    half = [str(path.relative_to(store)) for path in (store / "incoming").rglob("*")]
    check(half == [], f"half made: {half}")
    chunks = [path for path in (store / "chunks").rglob("*") if path.is_file()]
    check(bool(chunks) == bool(kept), f"{len(chunks)} chunks for {kept} snapshots")


def restart(hearth):
    hearth.check_nothing_left()
    hearth.forget_api()
    hearth.start_hearthd()


def percent(hearth):
    """How far the one deployment under way is; -1: there is none."""
    request = {"name": "tenants/default", "pageSize": 1000}
    operations = hearth.api.call("google.longrunning.Operations/ListOperations", request).operations
    return max((hearth.api.json(one)["metadata"]["percent"] for one in operations if not one.done), default=-1)


@case("kill -9 of hearthd at each step of making a snapshot: the next start finds a whole store, and no VMM stays")
def making(world):
    with Hearth(world.programs, idle_stop=1) as hearth:
        for what, wanted in MAKING[:None if world.full else 3]:
            ended = {}
            thread = threading.Thread(target=lambda: ended.update(result=hearth.cli("deploy", HERE / "functions/echo")))
            thread.start()
            await_true(lambda: percent(hearth) >= wanted or ended, f"{what}, {wanted} %", 240)
            check(not ended, f"killed when {what}: {ended}")
            hearth.hearthd.end(signal.SIGKILL)
            thread.join()
            check(ended["result"][0] == 3, f"when {what}, the client was told: {ended['result']}")
            restart(hearth)
            check(hearth.json("snapshots", "list")["snapshots"] == [], f"when {what}: no snapshot of a version that failed")
            check_store(hearth, 0)
        hearth.deploy("echo")
        check_store(hearth, 1)
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "the next deployment has its snapshot")


class Restoring:
    """An invocation under way whose instance is being restored."""

    def __init__(self, hearth):
        self._result = None
        self._thread = threading.Thread(target=lambda: self._set(hearth.cli("--json", "invoke", "echo", "--data", "{}")))
        self._thread.start()

    def _set(self, result):
        self._result = result

    def result(self):
        self._thread.join()
        return self._result


@cases("kill -9 of {} at moments all over a restore: its snapshot serves on, and nothing is left", [("hearthd",), ("a VMM",)])
def restoring(world, whom):
    moments = 8 if world.full else 3
    told = []
    with Hearth(world.programs, idle_stop=0.1) as hearth:
        hearth.deploy("echo")
        check(snapshots(hearth), f"the deployment makes a snapshot:\n    {hearth.hearthd.tail()}")
        name = snapshots(hearth)[0]["name"]
        start_kind(hearth.invoke("echo"))
        new_instances(hearth)
        begin = time.monotonic()
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "it is restored")
        took = time.monotonic() - begin
        for moment in range(moments):
            new_instances(hearth)
            hearth.check_nothing_left()
            under_way = Restoring(hearth)
            if whom == "a VMM":
                await_true(lambda: hearth.vmms(), "a VMM")
            threading.Event().wait(took * moment / moments)
            if whom == "hearthd":
                hearth.hearthd.end(signal.SIGKILL)
                code, _, err = under_way.result()
                # It had answered, it had not been asked yet, or the connection broke and the function may have run.
                check(code in (0, 3, 13), f"the client was told: {code} {err}")
                restart(hearth)
            else:
                for pid in hearth.vmms():
                    os.kill(pid, signal.SIGKILL)
                code, _, err = under_way.result()
                # Too early, it was booted instead; too late, it had answered.
                check(code in (0, 13), f"the client was told: {code} {err}")
            told.append(code)
            one = await_ready(hearth)
            check(one["name"] == name, f"it is the same snapshot: {one}")
            # What was booted instead serves others while it lives; a domain's snapshot waits for its last one's end.
            new_instances(hearth)
            kind = start_kind(hearth.invoke("echo"))
            check(kind == "RESTORED", f"which serves on: {kind}")
        check_store(hearth, 1)
    return [f"restores of {took:.2f} s; the {moments} clients ended with {told}"]
