# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the host: images, the kernel, KVM, the disk, the agent."""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import HERE, Daemon, Failed, Hearth, await_true, check, check_in, forbid_kvm
from .registry import case, cases

ECHO = HERE / "functions/echo"


def add_blob(folder, data):
    digest = hashlib.sha256(data).hexdigest()
    path = f"blobs/sha256/{digest}"
    (folder / path).write_bytes(data)
    return {"path": path, "digest": f"sha256:{digest}"}


def deploy_fails(hearth, words, code=None):
    """The deployment ends in order, says why, and leaves nothing running."""
    ended, out, err = hearth.cli("deploy", ECHO)
    check(ended not in (0, 2) and out == b"" and code in (None, ended), f"ended with {ended}: {out} {err}")
    for word in words:
        check_in(word, err)
    hearth.check_nothing_left()
    check(hearth.hearthd.process.poll() is None, "hearthd still runs")
    check(hearth.launcher.process.poll() is None, f"{hearth.launcher.name} still runs")


def no_kernel(manifest, folder):
    manifest["kernel"] = add_blob(folder, b"this is no kernel\n" * 1000)


def script_kernel(manifest, folder):
    # An ELF file, but no kernel: no PVH note.
    manifest["kernel"] = add_blob(folder, Path("/bin/true").read_bytes())


@cases("kernel: {} is refused with a reason", [
    ("a file that is no ELF", no_kernel),
    ("a program that is no kernel", script_kernel),
])
def kernel(world, _, change):
    with Hearth(world.programs, images=world.image_store(change)) as hearth:
        deploy_fails(hearth, ["kernel"])


def truncate_image(manifest, folder):
    path = folder / manifest["runtimes"]["python3.11"]["image"]["path"]
    os.truncate(path, path.stat().st_size // 2)
    return path


def remove_image(manifest, folder):
    path = folder / manifest["runtimes"]["python3.11"]["image"]["path"]
    path.unlink()
    return path


def flip_byte(manifest, folder):
    path = folder / manifest["agent"]["path"]
    with open(path, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    return path


@cases("images: {} is found before anything runs from it", [
    ("a truncated image", truncate_image),
    ("a missing image", remove_image),
    ("an image with another digest", flip_byte),
])
def images(world, _, change):
    broken = []
    store = world.image_store(lambda *both: broken.append(change(*both)))
    with Hearth(world.programs, images=store, start=False) as hearth:
        hearth.start_launcher()
        hearth.start_hearthd(wait=False)
        hearth.hearthd._ready.wait(60)
        if hearth.hearthd.process.poll() is None and "is ready" in hearth.hearthd.tail():
            # It may serve what is whole, but nothing may be started from what is not.
            deploy_fails(hearth, [])
            return
        code = hearth.hearthd.process.wait(60)
        check(code == 1, f"hearthd ended with {code}")
        check_in(broken[0].name[:16], hearth.hearthd.tail())


@case("images: a folder without a manifest is told by its name")
def no_store(world):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with Hearth(world.programs, images=folder, start=False) as hearth:
            hearth.start_launcher()
            hearth.start_hearthd(wait=False)
            check(hearth.hearthd.process.wait(60) == 1, "hearthd ended")
            check_in("manifest.json", hearth.hearthd.tail())


@case("agent: one of an unknown version is refused, and both versions are named")
def unknown_agent(world):
    def change(manifest, folder):
        with tempfile.TemporaryDirectory() as staging:
            root = Path(staging) / "root"
            for name in ("dev", "proc", "sys", "run", "mnt", "runtime", "tmp"):
                (root / name).mkdir(parents=True)
            subprocess.run(["gcc", "-O1", "-static", "-o", root / "hearth-agent", HERE / "unknown_agent.c"], check=True)
            subprocess.run(["mkfs.erofs", "-T0", "--all-root", Path(staging) / "image", root], check=True,
                           stdout=subprocess.DEVNULL)
            manifest["agent"] = add_blob(folder, (Path(staging) / "image").read_bytes())
    with Hearth(world.programs, images=world.image_store(change)) as hearth:
        deploy_fails(hearth, ["99", "version"])


@cases("kvm: {} is told at the start or at the first deployment", [
    ("a host without /dev/kvm", "absent", ["/dev/kvm"]),
    ("a /dev/kvm that may not be opened", "forbidden", ["/dev/kvm"]),
    # Which only doctor can tell, and the CLI says so.
    ("a /dev/kvm that is none", "other", ["hearth doctor"]),
], "kvm")
def kvm(world, _, kind, words):
    with Hearth(world.programs, launcher_prefix=forbid_kvm(kind), start=False) as hearth:
        try:
            hearth.start_launcher()
        except Failed as error:
            # It refuses to start at all: as good, if it says why.
            for word in words:
                check_in(word, str(error))
            check(hearth.launcher.process.poll() is not None, "it has ended")
            return
        hearth.start_hearthd()
        deploy_fails(hearth, words)


@cases("kvm: doctor tells of {}", [
    ("a host without it", "absent", "there is no /dev/kvm"),
    ("one that may not be opened", "forbidden", "you may not open /dev/kvm"),
    ("a device that is none", "other", "no KVM device"),
], "kvm")
def doctor(world, _, kind, words):
    done = subprocess.run([*forbid_kvm(kind), world.programs / "hearth", "doctor", "--backend", "kvm"],
                          stdout=subprocess.PIPE)
    check(done.returncode in (5, 6), f"doctor ended with {done.returncode}: {done.stdout.decode()}")
    check_in(words, done.stdout.decode())


@case("kvm: doctor finds the one of this machine usable, by measuring, and chooses it", "kvm")
def doctor_usable(world):
    for only in ([], ["--backend", "kvm"]):
        done = subprocess.run([world.programs / "hearth", "doctor", *only], stdout=subprocess.PIPE)
        check(done.returncode == 0, done.stdout.decode())
        check_in("million instructions a second", done.stdout.decode())
        check_in("\nchoice   kvm: ", done.stdout.decode())


@case("disk: a full one refuses the upload, and hearthd serves on")
def disk_full(world):
    with Hearth(world.programs, state_size="16m") as hearth, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ECHO, folder, dirs_exist_ok=True)
        (Path(folder) / "big").write_bytes(os.urandom(40_000_000))
        code, out, err = hearth.cli("deploy", folder, "--name", "big")
        check(code == 4 and out == b"", f"ended with {code}: {err}")
        check_in("DISK_FULL", err)
        (Path(folder) / "big").unlink()
        hearth.deploy("echo")
        answer = hearth.invoke("echo")["invocation"]
        check(answer["outcome"] == "SUCCEEDED", f"a small function still runs: {answer}")
        check(answer["startKind"] == "COLD", f"it was booted: {answer}")
        stored = [one for one in hearth.json("snapshots", "list")["snapshots"] if one["state"] != "BUILDING"]
        check(stored == [], f"its snapshot was not stored, nor half of it: {stored}")


@case("hearthd: without a launcher it says what to start")
def no_launcher(world):
    with Hearth(world.programs, start=False) as hearth:
        hearth.start_hearthd(wait=False)
        check(hearth.hearthd.process.wait(60) == 1, "hearthd ended")
        check_in(hearth.machines.launcher, hearth.hearthd.tail())


@case("hearthd: an idle instance is paused, and ended after its time")
def idle(world):
    with Hearth(world.programs, idle_pause=0.2, idle_stop=4) as hearth:
        hearth.deploy("echo")
        boot = hearth.invoke("echo")["payload"]["boot"]
        await_true(lambda: [i["state"] for i in hearth.json("list", "instances")["instances"]] == ["PAUSED"], "the instance paused")
        check(hearth.invoke("echo")["payload"]["boot"] == boot, "the paused instance served again")
        hearth.check_nothing_left()
        check(hearth.json("list", "instances")["instances"] == [], "none is listed")
        check(hearth.invoke("echo")["payload"]["boot"] != boot, "and a new one serves")


@case("clock: after an idle pause the guest's wall clock is right, and time has not gone back")
def clock_after_pause(world):
    asleep = 5
    with Hearth(world.programs, idle_pause=0.2) as hearth:
        hearth.deploy("echo")
        readings = []
        for number in range(4):
            before = time.time()
            guest = hearth.invoke("echo", b'{"who": true}')["payload"]
            after = time.time()
            check(before <= guest["now"] <= after, f"reading {number}: the guest's clock is {guest['now'] - before:.3f} s after the "
                  f"host's of before and {after - guest['now']:.3f} s before that of after")
            readings.append(guest)
            await_true(lambda: [i["state"] for i in hearth.json("list", "instances")["instances"]] == ["PAUSED"],
                       "the instance paused")
            # The time itself is what is tested.
            time.sleep(asleep)
        check(len({one["boot"] for one in readings}) == 1, "one instance served them all")
        wall = readings[-1]["now"] - readings[0]["now"]
        monotonic = readings[-1]["monotonic"] - readings[0]["monotonic"]
        check(0 < monotonic < wall + 1, f"monotonic time went on by {monotonic} s in {wall} s")
    return [f"of {wall:.1f} s with three pauses of {asleep} s and more, the monotonic clock counted {monotonic:.1f} s"]


@case("hearthd: a second one on the same state is refused, the first serves on")
def second(world):
    with Hearth(world.programs) as hearth:
        other = Daemon("hearthd", [
            "setpriv", "--reuid=64918", "--regid=64918", "--clear-groups", world.programs / "hearthd",
            f"--socket={hearth.folder}/run/other.sock", f"--state-dir={hearth.folder}/data", f"--images={hearth.images}",
            f"--launcher-socket={hearth.launcher_socket}"], hearth.folder / "other.log")
        try:
            check(other.process.wait(60) == 1, "the second ended")
        finally:
            other.end(signal.SIGKILL)
        check(hearth.cli("list")[0] == 0, "the first serves")
