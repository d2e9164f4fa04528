# SPDX-License-Identifier: Apache-2.0
"""Instances restored from snapshots: each one of its own, and the life of a version's snapshot."""

import base64
import hashlib
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from harness import Hearth, await_true, check, check_in
from .registry import case

INVOKE = "hearth.v1.InvocationService/Invoke"
WHO = b'{"who": true}'


def snapshots(hearth, name="echo"):
    return hearth.json("snapshots", "list", name)["snapshots"]


def await_ready(hearth, other_than=()):
    """The echo function's one snapshot, when it is READY and none of `other_than`."""
    def ready():
        found = [one for one in snapshots(hearth) if one["state"] == "READY" and one["name"] not in other_than]
        return found and len(snapshots(hearth)) == 1
    await_true(ready, "a snapshot that is READY", 300)
    return snapshots(hearth)[0]


def new_instances(hearth):
    """No instance of before serves from here on."""
    await_true(lambda: not hearth.json("list", "instances")["instances"], "the instances gone")


def start_kind(answer):
    check(answer["invocation"]["outcome"] == "SUCCEEDED", str(answer))
    return answer["invocation"]["startKind"]


def seconds(duration):
    return float(duration.rstrip("s"))


@case("snapshots: a deployment makes one, and the first invocation is restored from it")
def first(world):
    with Hearth(world.programs) as hearth:
        deployed = hearth.deploy("echo")
        check("snapshot" in [stage["stage"] for stage in deployed["stages"]], str(deployed["stages"]))
        check(hearth.json("list", "instances")["instances"] == [], "no instance is kept")
        answer = hearth.invoke("echo", WHO)
        check(start_kind(answer) == "RESTORED", str(answer["invocation"]))
        timing = answer["invocation"]["timing"]
        check(seconds(timing["restore"]) > 0 and seconds(timing["boot"]) == 0, str(timing))
        check(abs(answer["payload"]["now"] - time.time()) < 30, "the clock is set")
        check(answer["invocation"]["guestBootId"] == answer["payload"]["boot"], "the guest's new boot id is told")
        check(start_kind(hearth.invoke("echo", WHO)) == "WARM", "and the next is warm")
        code, out, err = hearth.cli("invoke", "echo", "-v", "--data", "{}")
        check(code == 0, err)
        check(deployed["version"]["snapshot"] == snapshots(hearth)[0]["name"], "the version names it")


@case("snapshots: clones are not each other: boot id, host name and random numbers differ", "clones")
def unique(world):
    with Hearth(world.programs, idle_stop=0, idle_pause=0) as hearth:
        hearth.deploy("echo")
        answers = [hearth.invoke("echo", WHO) for _ in range(4)]
        check([start_kind(answer) for answer in answers] == ["RESTORED"] * 4, "each got an instance of its own")
        for key in ("boot", "host", "random"):
            values = {answer["payload"][key] for answer in answers}
            check(len(values) == 4, f"{key}: {values}")
        check(len({answer["payload"]["started"] for answer in answers}) == 1, "they were initialised once, together")


@case("snapshots: list, describe, delete and rebuild", "clones")
def commands(world):
    with Hearth(world.programs, idle_stop=1) as hearth:
        hearth.deploy("echo")
        one = snapshots(hearth)[0]
        check(one["state"] == "READY" and int(one["dataBytes"]) > 0, str(one))
        check(int(one["workingSetPages"]) > 0, "the working set was recorded")
        code, out, err = hearth.cli("snapshots", "describe", "echo")
        check(code == 0, err)
        check_in("READY", out.decode())
        rebuilt = hearth.json("snapshots", "rebuild", "echo")["snapshot"]
        check(rebuilt["name"] != one["name"], "it is a new one")
        check([each["name"] for each in snapshots(hearth)] == [rebuilt["name"]], "the old one is gone")
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "the new one serves")
        hearth.json("snapshots", "delete", "echo", "--yes")
        check(snapshots(hearth) == [], "it is gone")
        new_instances(hearth)
        check(start_kind(hearth.invoke("echo")) == "COLD", "without one it boots")
        await_ready(hearth)
        new_instances(hearth)
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "and gets another in the background")
        hearth.json("delete", "echo", "--yes")
        check(hearth.json("snapshots", "list")["snapshots"] == [], "it goes with its function")


@case("snapshots: a bootstrap that uses restore/next runs its hook before the first invocation of each instance", "clones")
def restore_next(world):
    with Hearth(world.programs, idle_stop=0, idle_pause=0) as hearth:
        hearth.deploy("snapstart", "--secret", "TOKEN=hush")
        for _ in range(2):
            answer = hearth.invoke("snapstart")
            check(start_kind(answer) == "RESTORED", str(answer["invocation"]))
            check(answer["payload"] == {"type": "snap-start", "events": "init,restored,renewed,invoked", "secret": "hush"},
                  str(answer["payload"]))


@case("snapshots: a secret reaches each instance and is in no snapshot", "clones")
def secret(world):
    plain, hidden = "in-every-snapshot-5f1c29", "in-no-snapshot-93be07"
    with Hearth(world.programs) as hearth:
        hearth.deploy("echo", "--env", f"PLAIN={plain}", "--secret", f"TOKEN={hidden}")
        answer = hearth.invoke("echo", b'{"variables": ["PLAIN", "TOKEN", "HEARTH_INSTANCE_ID"]}')
        check(start_kind(answer) == "RESTORED", str(answer["invocation"]))
        check(answer["payload"] == {"PLAIN": plain, "TOKEN": hidden,
                                    "HEARTH_INSTANCE_ID": answer["invocation"]["instance"].rsplit("/", 1)[1]},
              str(answer["payload"]))
        stored = [path.read_bytes() for path in (hearth.folder / "data/snapshots").rglob("*") if path.is_file()]
        check(any(plain.encode() in data for data in stored), "what is no secret is found so")
        check(not any(hidden.encode() in data for data in stored), "the secret is not")
        check(hidden not in json.dumps(hearth.json("describe", "echo")), "and is told to nobody")


@case("snapshots: off, every instance boots")
def off(world):
    with Hearth(world.programs, extra=["--snapshots=off"]) as hearth:
        deployed = hearth.deploy("echo")
        check(deployed["version"]["snapshot"] == "", str(deployed["version"]))
        check(start_kind(hearth.invoke("echo")) == "WARM", "the deployment's instance serves")
        code, out, err = hearth.cli("snapshots", "rebuild", "echo")
        check(code == 1, f"{code}: {err}")
        check_in("--snapshots=off", err)
        hearth.deploy("snapstart", "--secret", "TOKEN=hush")
        told = hearth.invoke("snapstart")["payload"]
        check(told == {"type": "on-demand", "events": "init,invoked", "secret": "hush"}, str(told))


@case("snapshots: they outlive a hearthd that is killed, VMMs that wait do not", "hearth-vmm")
def killed(world):
    with Hearth(world.programs, waiting_vmms=2) as hearth:
        hearth.deploy("echo")
        name = snapshots(hearth)[0]["name"]
        await_true(lambda: len(hearth.vmms()) == 2, "two VMMs wait")
        hearth.hearthd.end(signal.SIGKILL)
        hearth.check_nothing_left()
        hearth.start_hearthd()
        check(snapshots(hearth)[0]["name"] == name, "it is the same one")
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "and serves")


@case("snapshots: one that was altered is refused, the request served by a boot, and a new one made")
def altered(world):
    with Hearth(world.programs, idle_stop=1) as hearth:
        hearth.deploy("echo")
        old = snapshots(hearth)[0]["name"]
        state = next((hearth.folder / "data/snapshots").rglob("state"))
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.chmod(0o600)
        state.write_bytes(data)
        check(start_kind(hearth.invoke("echo")) == "COLD", "it was not restored from that")
        check_in("DAMAGED", hearth.hearthd.tail())
        await_ready(hearth, other_than=[old])
        new_instances(hearth)
        check(start_kind(hearth.invoke("echo")) == "RESTORED", "the new one serves")


def patch_runtime(store):
    """Another image of the same content: its padding is longer."""
    manifest = json.loads((store / "manifest.json").read_text())
    image = manifest["runtimes"]["python3.11"]["image"]
    data = (store / image["path"]).read_bytes() + bytes(4096)
    digest = hashlib.sha256(data).hexdigest()
    image["path"], image["digest"] = f"blobs/sha256/{digest}", f"sha256:{digest}"
    (store / image["path"]).write_bytes(data)
    (store / "manifest.json").write_text(json.dumps(manifest))
    return image["digest"]


class Load:
    """Clients that invoke echo until `stop`, with pauses that are ever longer, so that requests
    find instances that serve, that idle, and none."""

    def __init__(self, hearth):
        self.stop, self.bad, self.kinds, self.slowest = threading.Event(), [], [], 0.0
        self._api = hearth.api
        self._body = {"name": "tenants/default/functions/echo", "payload": base64.b64encode(b"{}").decode()}

    def one(self, pause):
        while not self.stop.wait(pause):
            begin = time.monotonic()
            try:
                invocation = self._api.json(self._api.call(INVOKE, self._body, timeout=900).invocation)
            except grpc.RpcError as error:
                self.bad.append(str(error))
                continue
            self.slowest = max(self.slowest, time.monotonic() - begin)
            self.kinds.append(invocation["startKind"])
            if invocation["outcome"] != "SUCCEEDED":
                self.bad.append(str(invocation))


@case("images: a patched runtime is swapped in under load, without a failed or a cold request", "clones")
def patched(world):
    store = world.image_store(lambda manifest, folder: None)
    load_seconds = 60 if world.full else 0
    with Hearth(world.programs, images=store, idle_stop=0.2, extra=["--queue-wait=600"]) as hearth:
        hearth.deploy("echo")
        old = snapshots(hearth)[0]
        check(hearth.json("images", "outdated")["uses"] == [], "nothing is outdated")
        load, pauses = Load(hearth), (0.1, 0.5, 0.9)
        begin = time.monotonic()
        with ThreadPoolExecutor(len(pauses)) as pool:
            running = [pool.submit(load.one, pause) for pause in pauses]
            try:
                load.stop.wait(load_seconds / 4)
                before = len(load.kinds)
                swap = time.monotonic()
                digest = patch_runtime(store)
                check(hearth.json("images", "reload")["changed"], "the manifest has changed")
                new = await_ready(hearth, other_than=[old["name"]])
                await_true(lambda: hearth.json("images", "outdated")["uses"] == [], "nothing outdated any more", 120)
                swapped = time.monotonic()
                served = len(load.kinds)
                await_true(lambda: len(load.kinds) > served + 5, "it goes on", 300)
                load.stop.wait(max(0, begin + load_seconds - time.monotonic()))
            finally:
                load.stop.set()
            for one in running:
                one.result()
        seconds = time.monotonic() - begin
        kinds = load.kinds
        check(not load.bad, f"{len(load.bad)} failed: {load.bad[:2]}")
        why = [line for line in (hearth.folder / "hearthd.log").read_text().splitlines() if " warning " in line]
        check("COLD" not in kinds, f"{kinds.count('COLD')} of {len(kinds)} were cold: {why}")
        check("RESTORED" in kinds[before:], "some found no instance")
        check(new["images"]["runtime"] == digest, str(new["images"]))
    return [f"{len(kinds)} requests in {seconds:.0f} s: {kinds.count('WARM')} warm, {kinds.count('RESTORED')} restored, "
            f"0 cold, 0 failed, the slowest {load.slowest:.2f} s; the swap took {swapped - swap:.0f} s of it, "
            f"with {served - before} requests"]
