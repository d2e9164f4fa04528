# SPDX-License-Identifier: Apache-2.0
"""hearth-libvirt with a libvirt daemon that is absent, stops, is killed or hangs: a clear error in time, and all works
again when it is back. The daemon is the case's own; qemu:///system is the path to it for the case's processes only."""

import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from harness import HERE, Hearth, Skipped, await_true, check, check_in
from .libvirt import busy, kill, recover
from .registry import case, cases
from .snapshots import snapshots, start_kind

LIBVIRTD = Path("/usr/sbin/libvirtd")
SOCKET = Path("/run/libvirt/libvirt-sock")
# Each is empty for the case; below them the daemon keeps all it has.
FOLDERS = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt")
CACHE = Path("/var/cache/libvirt")
KVM = Path("/dev/kvm")
URI = "--uri=qemu:///system"
# hearth-libvirt gives a daemon 20 s to answer (docs/libvirt.md), and hearthd tries twice, to restore and to boot; the rest
# is for a busy machine.
TOLD_SECONDS = 75

DAEMON_CONFIGURATION = 'unix_sock_group = "root"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
# QEMU's user is ours, and owners, labels and cgroups stay as they are.
QEMU_CONFIGURATION = ('user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = "none"\n'
                      'cgroup_controllers = []\nnamespaces = []\nstdio_handler = "file"\n')


FOREIGN = """<domain type='qemu'><name>hearth-db</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='microvm'>hvm</type></os>
  <devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""


# As Debian has it, but for who writes QEMU's words: that would be virtlogd.
OPERATORS_CONFIGURATION = 'user = "libvirt-qemu"\ngroup = "libvirt-qemu"\ndynamic_ownership = 1\nstdio_handler = "file"\n'


class Client:
    """An operator's, for what there is no command of ours."""

    PAUSED = 1  # VIR_DOMAIN_START_PAUSED

    def __init__(self):
        self._libvirt = ctypes.CDLL("libvirt.so.0")
        for name in ("virConnectOpen", "virDomainDefineXML", "virDomainLookupByName"):
            getattr(self._libvirt, name).restype = ctypes.c_void_p

    def __enter__(self):
        self._connection = ctypes.c_void_p(self._libvirt.virConnectOpen(b"qemu:///system"))
        check(self._connection, "the operator's connection")
        return self

    def __exit__(self, *_):
        self._libvirt.virConnectClose(self._connection)

    def start(self, xml):
        domain = ctypes.c_void_p(self._libvirt.virDomainDefineXML(self._connection, xml.encode()))
        check(domain and self._libvirt.virDomainCreateWithFlags(domain, self.PAUSED) == 0, "the operator's domain starts")

    def find(self, name):
        return ctypes.c_void_p(self._libvirt.virDomainLookupByName(self._connection, name.encode()))

    def runs(self, name):
        domain = self.find(name)
        return bool(domain) and self._libvirt.virDomainIsActive(domain) == 1

    def remove(self, name):
        domain = self.find(name)
        self._libvirt.virDomainDestroy(domain)
        self._libvirt.virDomainUndefine(domain)


class Libvirtd:
    """Not started yet; `with` makes its folders, and ends it."""

    def __init__(self, world, configuration=QEMU_CONFIGURATION):
        self._configuration = configuration
        drivers = list(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"))
        if not LIBVIRTD.exists() or not drivers:
            raise Skipped(f"{LIBVIRTD} and libvirt's QEMU driver are not installed: scripts/install-deps --all")
        # The other drivers would look after the host's networks and devices.
        self._drivers = Path(tempfile.mkdtemp(prefix="hearth-drivers-"))
        (self._drivers / drivers[0].name).symlink_to(drivers[0])
        # What it has found out about QEMU, which takes it seconds, serves all cases.
        self._cache = world.programs.folder / "libvirt-cache"
        self._cache.mkdir(exist_ok=True)
        self._mounted = []
        self.process = None

    def _mount(self, place, *what):
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *what, str(place)], check=True)
        self._mounted.append(place)

    def __enter__(self):
        for place in FOLDERS:
            self._mount(place, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        self._mount(CACHE, "--bind", self._cache)
        SOCKET.parent.mkdir()
        Path("/etc/libvirt/libvirtd.conf").write_text(DAEMON_CONFIGURATION)
        Path("/etc/libvirt/qemu.conf").write_text(self._configuration)
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.end(signal.SIGTERM)
        for place in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        (self._drivers / "libvirt_driver_qemu.so").unlink()
        self._drivers.rmdir()

    def let_open_kvm(self, user):
        """As udev has it on an operator's machine, by a group. A libvirt that has found KVM in QEMU, but not open to QEMU's
        user, takes what it has found for outdated, and asks QEMU anew at each step."""
        if KVM.exists():
            node = Path("/etc/libvirt/kvm")
            os.mknod(node, 0o600 | stat.S_IFCHR, KVM.stat().st_rdev)
            shutil.chown(node, user)
            subprocess.run(["mount", "--bind", node, KVM], check=True)
            self._mounted.append(KVM)

    def start(self):
        with open(self._cache.parent / "libvirtd.log", "ab") as log:
            self.process = subprocess.Popen([str(LIBVIRTD)], env={**os.environ, "LIBVIRT_DRIVER_DIR": str(self._drivers)},
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        await_true(lambda: self.answers() or self.process.poll() is not None, "libvirtd listens")
        check(self.process.poll() is None, f"libvirtd ended: {(self._cache.parent / 'libvirtd.log').read_text()[-2000:]}")

    @staticmethod
    def answers():
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(SOCKET)) == 0

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(60)


def qemus():
    """Those of all hearth-libvirts: a restored one's command line names no file of its Hearth."""
    return {int(file.read_text()) for file in Path("/run/libvirt/qemu").glob("hearth-*-*.pid")}


def told(hearth, *words):
    """An invocation that needs a new instance must fail in time, with these words; how long it took."""
    begin = time.monotonic()
    code, out, err = hearth.cli("invoke", "echo", "--data", "{}", timeout=120)
    took = time.monotonic() - begin
    check(code not in (0, 2) and out == b"", f"ended with {code}: {err}")
    for word in words:
        check_in(word, err)
    check(took < TOLD_SECONDS, f"the client was told after {took:.0f} s")
    return took, " ".join(err.split())[:200]


def works(hearth):
    """By an instance that is booted, for none of before can have stayed."""
    check(hearth.invoke("echo", b'{"n": 1}')["payload"]["echo"] == {"n": 1}, "it works")


def with_daemon(world, **options):
    return Hearth(world.programs, launcher_extra=[URI], **options)


@case("daemon: absent at the start, each deployment is told so; when it has come, they work, and nothing is left at the end",
      "libvirt")
def absent(world):
    with Libvirtd(world) as daemon:
        with with_daemon(world) as hearth:
            check_in("libvirt cannot open qemu:///system", hearth.launcher.tail())
            check_in("a libvirt daemon must run", hearth.launcher.tail())
            code, _, err = hearth.cli("deploy", HERE / "functions/echo")
            check(code not in (0, 2), f"ended with {code}: {err}")
            check_in("libvirt cannot open qemu:///system", err)
            check_in("a libvirt daemon must run", err)
            daemon.start()
            hearth.deploy("echo")
            works(hearth)
        return [" ".join(err.split())[:200]]


@case("daemon: absent when hearth-libvirt starts, it costs no snapshot: when it has come, they are restored", "libvirt")
def keeps_snapshots(world):
    with Libvirtd(world) as daemon:
        daemon.start()
        with with_daemon(world) as hearth:
            hearth.deploy("echo")
            kept = snapshots(hearth)[0]["name"]
            daemon.end(signal.SIGTERM)
            hearth.launcher.end(signal.SIGTERM)
            hearth.start_launcher()
            told(hearth, "libvirt cannot open qemu:///system")
            check([(one["name"], one["state"]) for one in snapshots(hearth)] == [(kept, "READY")], f"{snapshots(hearth)}")
            daemon.start()
            check(start_kind(hearth.invoke("echo")) == "RESTORED", "it serves")


@cases("daemon: {} under an invocation: clients are told in time, and when it is back, all works", [
    ("ended by SIGTERM", signal.SIGTERM), ("killed by SIGKILL", signal.SIGKILL),
], "libvirt")
def gone(world, _, number):
    with Libvirtd(world) as daemon:
        daemon.start()
        with with_daemon(world) as hearth:
            hearth.deploy("echo")
            works(hearth)
            result = {}
            thread = threading.Thread(target=lambda: result.update(done=hearth.cli("invoke", "echo", "--data", '{"sleep": 100}')))
            thread.start()
            await_true(lambda: busy(hearth), "the invocation under way")
            before = hearth.vmms()
            begin = time.monotonic()
            daemon.end(number)
            thread.join(TOLD_SECONDS)
            check(not thread.is_alive(), f"its client was told nothing for {TOLD_SECONDS} s")
            took = time.monotonic() - begin
            code, _, err = result["done"]
            check(code == 13, f"the client of a lost instance: {code}: {err}")
            check_in("the connection to libvirt was lost", err)
            await_true(lambda: not set(before) & set(hearth.vmms()), "its QEMU gone, without the daemon")
            later, text = told(hearth, "libvirt cannot open qemu:///system")
            daemon.start()
            works(hearth)
    return [f"told after {took:.1f} s: {' '.join(err.split())[:160]}", f"without it, after {later:.1f} s: {text}"]


@case("daemon: hung: new instances are refused in time, those that run are lost, and when it goes on, all works", "libvirt")
def hung(world):
    with Libvirtd(world) as daemon:
        daemon.start()
        with with_daemon(world, idle_pause=600) as hearth:
            hearth.deploy("echo")
            works(hearth)
            before = hearth.vmms()
            daemon.process.send_signal(signal.SIGSTOP)
            works(hearth)  # What runs needs no daemon.
            # Another instance, for the one that runs is busy.
            thread = threading.Thread(target=lambda: hearth.cli("invoke", "echo", "--data", '{"sleep": 100}'))
            thread.start()
            await_true(lambda: busy(hearth), "the invocation under way")
            first, text = told(hearth, "libvirt")
            second, again = told(hearth, "libvirt", "does not answer within 20s")
            thread.join(TOLD_SECONDS)
            check(not thread.is_alive(), "the client of the instance that ran was told")
            third, _ = told(hearth, "does not answer within 20s")
            check(third < 15, f"nobody waits for it again: {third:.1f} s")
            await_true(lambda: not set(before) & set(hearth.vmms()), "its QEMU gone, without the daemon")
            daemon.process.send_signal(signal.SIGCONT)
            works(hearth)
    return [f"first after {first:.1f} s: {text}", f"then after {second:.1f} s: {again}"]


@cases("daemon: kill -9 of {}: nothing is left at the next start, and the next invocation works",
       [("hearth-libvirt",), ("hearthd",), ("QEMU",)], "libvirt")
def killed(world, whom):
    with Libvirtd(world) as daemon:
        daemon.start()
        with with_daemon(world, idle_stop=1) as hearth:
            hearth.deploy("echo")
            for sleep in (0, 30):
                thread = threading.Thread(target=lambda: hearth.cli("invoke", "echo", "--data", f'{{"sleep": {sleep}}}'))
                thread.start()
                await_true(lambda: (busy(hearth) if sleep else hearth.vmms()) or not thread.is_alive(), "a QEMU", every=0.002)
                kill(hearth, whom)
                thread.join(TOLD_SECONDS)
                check(not thread.is_alive(), "its client was told")
                recover(hearth, whom)
            works(hearth)


@case("daemon: an operator's domain named hearth-db and those of another hearth-libvirt survive the start of one", "libvirt")
def foreign(world):
    with Libvirtd(world) as daemon:
        daemon.start()
        with Client() as operator:
            operator.start(FOREIGN)
            # A restored domain: the daemon itself would end with its hearth-libvirt one that was booted.
            with with_daemon(world, idle_pause=600) as other, with_daemon(world, idle_pause=600) as hearth:
                for each in (other, hearth):
                    each.deploy("echo")
                works(other)
                theirs = qemus()
                works(hearth)
                ours = qemus() - theirs
                check(len(theirs) == 1 and len(ours) == 1, f"QEMUs: {theirs}, {ours}")
                hearth.launcher.end(signal.SIGKILL)
                hearth.start_launcher()
                await_true(lambda: qemus() == theirs, "what it had left, gone")
                check(operator.runs("hearth-db"), "the operator's domain runs")
                check(Path("/var/log/libvirt/qemu/hearth-db.log").exists(), "its log is there")
                check(len(list(Path("/var/log/libvirt/qemu").glob("hearth-*-*.log"))) == 1, "its log is there, no other")
                works(other)
                works(hearth)
                # What is left at the end of either is looked for in the daemon's folders, which are all's.
                operator.remove("hearth-db")
                Path("/var/log/libvirt/qemu/hearth-db.log").unlink()  # Is its operator's to remove.
                check(other.cli("delete", "echo", "--yes")[0] == 0, "the other's function goes")


@case("daemon: as an operator has it, QEMU is libvirt-qemu and gets what it needs; saved, restored, nothing is left", "libvirt")
def operators(world):
    with Libvirtd(world, OPERATORS_CONFIGURATION) as daemon:
        daemon.let_open_kvm("libvirt-qemu")
        daemon.start()
        with with_daemon(world) as hearth:
            hearth.deploy("echo")
            check(start_kind(hearth.invoke("echo", b'{"n": 1}')) == "RESTORED", "it is restored")
            (qemu,) = qemus()
            check(Path(f"/proc/{qemu}").owner() == "libvirt-qemu", f"QEMU is {Path(f'/proc/{qemu}').owner()}")
            works(hearth)
