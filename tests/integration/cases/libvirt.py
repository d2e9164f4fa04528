# SPDX-License-Identifier: Apache-2.0
"""QEMU by libvirt's embedded driver: one instance's life, and kill -9 of hearthd, hearth-libvirt or QEMU wherever in a
function's life, from the definition of its domain to its deletion."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from harness import HERE, Hearth, await_true, check, check_in
from .kills import percent
from .registry import case, cases
from .snapshots import start_kind

WORDFREQ = HERE.parent.parent / "examples/wordfreq"
TOLD_SECONDS = 60  # So long a client may wait for the news that what served it was killed.
LIFE_SECONDS = 600  # So long a whole life may take, on a machine as busy and slow as it may be.


def wordfreq(hearth, text):
    """The function's answer must be its own program's."""
    code, out, err = hearth.cli("invoke", "wordfreq", "--payload", "-", "--content-type", "text/plain", stdin=text)
    check(code == 0, f"{code}: {err}")
    wanted = json.loads(subprocess.run([sys.executable, WORDFREQ / "wordfreq.py"], input=text, check=True,
                                       stdout=subprocess.PIPE).stdout)
    check(json.loads(out) == wanted, f"it answered {out}, not {wanted}")


@case("libvirt: doctor chooses it, without KVM where that is not usable, and says why", "libvirt")
def doctor(world):
    hearth = world.shared
    report = hearth.json("doctor")
    accel, why = "tcg", "kvm is not usable ("
    if report["kvmProbe"]["usable"]:
        # hearth-vmm, which would come first, is not among this backend's programs.
        accel, why = "kvm", "but hearth-launcher and hearth-vmm are missing"
    check((report["choice"], report["accel"], report["flag"], report["helperFlag"]) ==
          ("libvirt", accel, "--backend=libvirt", f"--accel={accel}"), f"the choice is {report}")
    check_in(why, report["reason"])
    check((accel == "tcg") == ("emulates the processor" in report["summary"]), report["summary"])
    check(hearth.cli("doctor", "--backend", "libvirt")[0] == 0, "doctor judges libvirt alone")
    check(hearth.cli("doctor", "--backend", "kvm")[0] != 0, "doctor judges kvm alone")
    return [report["reason"], report["summary"]]


@case("libvirt: doctor names the processor as libvirt does; hosts that are compared share snapshots, or it says why not",
      "libvirt")
def processors(world):
    hearth = world.shared
    report = hearth.json("doctor")
    libvirt = report["cpu"]["libvirt"]
    check("model" in libvirt, f"libvirt's model: {libvirt}")
    with tempfile.TemporaryDirectory() as folder:
        host, other, odd = (Path(folder) / name for name in ("host.json", "other.json", "odd.json"))
        host.write_text(json.dumps(report))
        report["cpu"]["host"]["microcode"] = "0xffff"
        other.write_text(json.dumps(report))
        answer = hearth.json("doctor", "--baseline", host, other)
        check([group["files"] for group in answer["groups"]] == [[str(host)], [str(other)]], f"groups: {answer['groups']}")
        check(["microcode" in each["differences"][0] for each in answer["relations"]] == [True, True],
              f"between them: {answer['relations']}")
        check(answer["baseline"].get("model") == libvirt["model"], f"two alike have in common: {answer['baseline']}")
        report["cpu"]["libvirt"]["xml"] = "<cpu><arch>x86_64</arch><model>EPYC</model><vendor>DEC</vendor></cpu>"
        odd.write_text(json.dumps(report))
        code, out, err = hearth.cli("doctor", "--baseline", host, odd)
        check(code == 0, f"{code}: {err}")
        check_in(f"no processor in common: hearth-libvirt: {odd}: libvirt: operation failed: Unknown CPU vendor DEC",
                 out.decode())
    return [f"{libvirt['model']} and {len(libvirt['more'])} features more"]


@case("libvirt: one QEMU serves ten invocations, paused in between, and its processor time is billed", "libvirt")
def serves(world):
    with Hearth(world.programs) as hearth:
        hearth.deploy("wordfreq", folder=WORDFREQ)
        wordfreq(hearth, b"to be or not to be")
        began = hearth.vmms()
        check(len(began) == 1, f"QEMUs: {began}")
        for i in range(10):
            if i == 5:
                await_true(lambda: [one["state"] for one in hearth.json("list", "instances")["instances"]] == ["PAUSED"],
                           "the idle instance paused")
            wordfreq(hearth, b"one two two " * (i + 1))
        check(hearth.vmms() == began, f"QEMUs: {began}, then {hearth.vmms()}")
        hosts = [int(one["usage"]["host"]["cpuNs"]) for one in hearth.ledger("wordfreq")]
        check(len(hosts) == 11 and min(hosts) > 0, f"host CPU times: {hosts}")
    return [f"host CPU of {len(hosts)} invocations: {min(hosts) / 1e6:.1f} to {max(hosts) / 1e6:.1f} ms"]


@case("libvirt: a guest that boots on a busy host has the TSC for its clock", "libvirt")
def clock(world):
    with Hearth(world.programs) as hearth:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
        try:
            hearth.deploy("clock")
        finally:
            for process in busy:
                process.kill()
                process.wait()
        clocks = [hearth.json("invoke", "clock", "--data", '{"sleep": 1}') for _ in range(2)]
        hosts = [int(one["usage"]["host"]["wallNs"]) / 1e9 for one in hearth.ledger("clock")]
    for one, host in zip(clocks, hosts):
        readings, slept = one["payload"]["readings"], one["payload"]["slept"]
        # A clock of ticks stands still between them.
        check(readings["different"] > readings["all"] * 0.9, f"readings of the clock: {readings}")
        check(1 <= slept <= host * 1.01, f"the guest slept {slept} s in {host} s")
    return [f"{readings['all']} readings, {readings['different']} different; {slept:.3f} s of sleep in {host:.3f} s"]


@case("libvirt: kill -9 of QEMU under an invocation: the client is told the signal, and the next one works", "libvirt")
def killed_busy(world):
    with Hearth(world.programs) as hearth:
        hearth.deploy("misbehave")
        result = {}
        thread = threading.Thread(target=lambda: result.update(done=hearth.cli(
            "invoke", "misbehave", "--data", '{"do": "never_answer"}')))
        thread.start()
        await_true(lambda: busy(hearth) or result, "the invocation under way", 120)
        for pid in hearth.vmms():
            os.kill(pid, signal.SIGKILL)
        thread.join()
        code, _, err = result["done"]
        check(code == 13, f"{code}: {err}")
        check_in("signal 9", err)
        check(hearth.invoke("misbehave", b'{"do": "nothing"}')["payload"] == {"fine": True}, "the next one")
    return [err.strip().splitlines()[0].strip()]


@case("libvirt: beside two busy instances one is booted ahead of demand, and the next invocation finds it warm", "libvirt")
def ahead(world):
    with Hearth(world.programs, extra=["--instances-ahead=1"]) as hearth:
        hearth.deploy("echo", "--timeout", "600")
        held = [subprocess.Popen([hearth.programs / "hearth", "--socket", hearth.socket, "invoke", "echo", "--data",
                                  '{"sleep": 500}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            # It idles, and is paused soon.
            states = lambda: [one["state"] for one in hearth.json("list", "instances")["instances"]]
            await_true(lambda: states().count("BUSY") == 2 and {"IDLE", "PAUSED"} & set(states()), "one ahead", 180)
            check(start_kind(hearth.invoke("echo")) == "WARM", "it was ready")
        finally:
            for one in held:
                one.terminate()
                one.wait()


@case("hung: a QEMU that answers nothing is ended in time, and the next invocation works", "libvirt")
def hangs(world):
    with Hearth(world.programs) as hearth:
        hearth.deploy("echo")
        hearth.invoke("echo")
        (hung,) = hearth.vmms()
        os.kill(hung, signal.SIGSTOP)
        begin = time.monotonic()
        # Whatever comes first, the instance's pause or its next invocation: libvirt waits for QEMU for ever.
        hearth.cli("invoke", "echo", "--data", "{}")
        await_true(lambda: hung not in hearth.vmms(), "its QEMU killed")
        took = time.monotonic() - begin
        check(hearth.invoke("echo", b'{"n": 1}')["payload"]["echo"] == {"n": 1}, "the next one works")
    return [f"gone after {took:.1f} s"]


@case("libvirt: a root of the embedded driver that an operator names is prepared as our own", "libvirt")
def operators_root(world):
    with tempfile.TemporaryDirectory(prefix="hearth root-") as folder:
        uri = "qemu:///embed?root=" + urllib.parse.quote(f"{folder}/libvirt")
        with Hearth(world.programs, launcher_extra=["--uri", uri]) as hearth:
            hearth.deploy("echo")
            check(hearth.invoke("echo", b'{"n": 1}')["payload"]["echo"] == {"n": 1}, "it works")


def busy(hearth):
    return any(one["state"] == "BUSY" for one in hearth.json("list", "instances")["instances"])


class Life:
    """A function's, in a thread: it is deployed, invoked and deleted. Its client gives up at the first error."""

    COMMANDS = (["deploy", HERE / "functions/echo"], ["invoke", "echo", "--data", '{"sleep": 1}'], ["delete", "echo", "--yes"])

    def __init__(self, hearth):
        self.hearth, self.result, self.step = hearth, None, 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        for self.step, command in enumerate(self.COMMANDS):
            result = self.hearth.cli(*command)
            if result[0] != 0:
                break
        self.result = result

    def join(self, seconds):
        """(exit code, what the client was told)."""
        begin = time.monotonic()
        self._thread.join(seconds)
        check(not self._thread.is_alive(), f"the client of {self.COMMANDS[self.step][0]} was told nothing for {seconds:.0f} s")
        code, _, err = self.result
        lines = err.strip().splitlines()
        return code, f"{time.monotonic() - begin:.1f} s: {lines[0].strip() if lines else 'it had ended'}"


def has(hearth, pattern):
    return any(hearth.machines.files.glob(pattern))


def cpu_seconds(pid):
    """Of a process; 0 when it is gone. QEMU itself takes well below one to start, an emulated guest some to boot."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# What there is to see of a function's life, in its order: where it is looked for, and whether there is a QEMU by then.
LIFE = [
    ("its domain is defined", lambda life: has(life.hearth, "embed/etc/qemu/hearth-*.xml"), False),
    ("its QEMU is started", lambda life: life.hearth.vmms(), True),
    ("its QEMU answers libvirt", lambda life: has(life.hearth, "embed/run/qemu/hearth-*.xml"), True),
    ("its guest boots", lambda life: any(cpu_seconds(pid) > 1 for pid in life.hearth.vmms()), True),
    ("its function initialises", lambda life: percent(life.hearth) >= 55 and life.hearth.vmms(), True),
    ("it is saved", lambda life: percent(life.hearth) >= 75 and life.hearth.vmms(), True),
    ("its snapshot is stored", lambda life: percent(life.hearth) >= 81, False),
    ("it is restored for the first time", lambda life: percent(life.hearth) >= 87 and life.hearth.vmms(), True),
    ("it is invoked", lambda life: life.step == 1 and busy(life.hearth), True),
    ("it is deleted", lambda life: life.step == 2, False),
]
# Without --full: one of each part of it.
FEW = ("its guest boots", "it is saved", "it is restored for the first time", "it is invoked")


def kill(hearth, whom):
    if whom == "QEMU":
        for pid in hearth.vmms():
            os.kill(pid, signal.SIGKILL)
    else:
        (hearth.hearthd if whom == "hearthd" else hearth.launcher).end(signal.SIGKILL)


def recover(hearth, whom):
    """Starts again what was killed; nothing of before may be left then."""
    if whom == "hearth-libvirt":
        hearth.start_launcher()
    elif whom == "hearthd":
        hearth.check_nothing_left()
        hearth.forget_api()
        hearth.start_hearthd()
    await_true(lambda: not hearth.json("list", "instances")["instances"], "its instances gone")
    hearth.check_nothing_left()


def forget_echo(hearth):
    if any(one["name"].endswith("/echo") for one in hearth.json("list")["functions"]):
        hearth.json("delete", "echo", "--yes")
    check(hearth.json("snapshots", "list")["snapshots"] == [], "its snapshot goes with it")


def kill_in_life(hearth, whom, what, reached, took):
    """What the client was told. What is killed may be made good, so that all of a life, which `took` so long, comes after it."""
    life = Life(hearth)
    await_true(lambda: life.result or reached(life), what, 240, every=0.002)
    kill(hearth, whom)
    code, told = life.join(TOLD_SECONDS + 2 * took)
    recover(hearth, whom)
    forget_echo(hearth)
    return f"{what}: ended with {code}, told after {told}"


@cases("libvirt: kill -9 of {} at each step of a function's life leaves nothing, and the next function works",
       [("hearthd",), ("hearth-libvirt",), ("QEMU",)], "libvirt")
def kill_at_steps(world, whom):
    told = []
    with Hearth(world.programs, idle_stop=1) as hearth:
        begin = time.monotonic()
        life = Life(hearth)
        check(life.join(LIFE_SECONDS)[0] == 0, f"a life that nobody ends: {life.result}")
        took = time.monotonic() - begin
        hearth.check_nothing_left()
        for what, reached, has_qemu in LIFE:
            if (world.full or what in FEW) and (has_qemu or whom != "QEMU"):
                told.append(kill_in_life(hearth, whom, what, reached, took))
        # And in between, wherever that is.
        for moment in range(12 if world.full else 0):
            at = time.monotonic() + took * moment / 12
            told.append(kill_in_life(hearth, whom, f"after {took * moment / 12:.1f} of {took:.1f} s",
                                     lambda life: time.monotonic() >= at, took))
        hearth.deploy("echo")
        check(hearth.invoke("echo", b'{"n": 1}')["payload"]["echo"] == {"n": 1}, "the next function works")
    return told


@case("libvirt: kill -9 of hearth-libvirt while libvirt asks QEMU what it can do leaves nothing", "libvirt")
def kill_asking(world):
    with Hearth(world.programs, start=False) as hearth:
        (hearth.machines.embed / "cache").unlink()  # It is all Hearths'.
        for moment in range(6 if world.full else 2):
            # Without its cache the driver asks each QEMU at its start: this takes seconds, and a QEMU of no domain.
            shutil.rmtree(hearth.machines.embed / "cache", ignore_errors=True)
            hearth.start_launcher(wait=False)
            await_true(hearth.vmms, "a QEMU that is asked", 60, every=0.002)
            threading.Event().wait(0.2 * moment)
            hearth.launcher.end(signal.SIGKILL)
        hearth.start_launcher()
        hearth.check_nothing_left()
