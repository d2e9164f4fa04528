# SPDX-License-Identifier: Apache-2.0
"""What makes the machines of a test's Hearth: hearth-launcher with hearth-vmm, or hearth-libvirt with QEMU.

One object belongs to one Hearth; what the class says holds for all. A case names what it needs beyond what every
backend has; `lacks` says which of that a backend has not, and why, and such a case is left out with that reason.
"""

import os
import shutil
from pathlib import Path


def pids_of(program):
    """Processes that run this very file."""
    wanted, found = Path(program).stat(), []
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            info = link.stat()
        except OSError:
            continue
        if (info.st_dev, info.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(link.parent.name))
    return sorted(found)


class Kvm:
    name = "kvm"
    launcher = "hearth-launcher"
    programs = {
        "hearth-launcher": "control-plane/launcher/hearth-launcher",
        "hearth-vmm": "vmm/hearth-vmm",
        "hearth-kvm-probe": "vmm/kvm/hearth-kvm-probe",
    }
    lacks = {"libvirt": "it is about hearth-libvirt and QEMU"}
    ends_with_launcher = True  # Its machines do.
    options = {"boot-timeout": 240}  # Of hearthd.

    def __init__(self, hearth):
        self._hearth = hearth
        self._cgroup = hearth.folder.name
        # A file of its own, by which its processes are known from another Hearth's.
        self._vmm = hearth.folder / "hearth-vmm"
        shutil.copy(hearth.programs / "hearth-vmm", self._vmm)

    def command(self):
        return [self._hearth.programs / "hearth-launcher", f"--vmm={self._vmm}", f"--cgroup={self._cgroup}"]

    def pids(self):
        return pids_of(self._vmm)

    def left(self):
        """What is there of machines beside their processes."""
        folder = Path("/sys/fs/cgroup") / self._cgroup
        return [f"cgroup {path.name}" for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def left_at_end(self):
        """What is there, but should not be, when the launcher has ended in order."""
        return []


class Libvirt:
    name = "libvirt"
    launcher = "hearth-libvirt"
    programs = {
        "hearth-libvirt": "control-plane/backend/libvirt/hearth-libvirt",
        "hearth-kvm-probe": "vmm/kvm/hearth-kvm-probe",
    }
    lacks = {
        "kvm": "it is about /dev/kvm",
        "hearth-vmm": "it is about hearth-vmm's processes",
        "clones": "a saved domain is restored under its own name, so one at a time",
    }
    # The embedded driver ends with its process; what is left of its machines goes at the next start.
    ends_with_launcher = False
    # A boot takes 4 to 10 s where the processor is emulated, three times that on a busy machine.
    options = {"boot-timeout": 120, "backend": "libvirt", "memory-mib": 4096, "queue-wait": 300, "instances-ahead": 0}
    accel = "auto"

    # Where libvirt's driver keeps what it knows of domains, below its root.
    DRIVER_FOLDERS = ("run/qemu", "etc/qemu", "log/qemu", "lib/qemu", "lib/qemu/channel/target")
    # The same of a daemon.
    DAEMON_FOLDERS = ("/run/libvirt/qemu", "/etc/libvirt/qemu", "/var/log/libvirt/qemu", "/var/lib/libvirt/qemu",
                      "/var/lib/libvirt/qemu/channel/target")

    def __init__(self, hearth):
        self._hearth = hearth
        self.files = hearth.folder / "libvirt"
        self.embed = self.files / "embed"
        # What the driver has found out about QEMU, which takes it seconds, and minutes in the testbed, serves all.
        self.embed.mkdir(parents=True)
        (self.embed / "cache").symlink_to(self.cache(hearth.programs.folder))

    @staticmethod
    def cache(folder):
        """In the testbed what tests/conformance/run has kept there, if it has."""
        cache = folder / "libvirt-embed-cache"
        kept = Path(os.environ.get("HEARTH_TESTBED_OUT", "/nonexistent")) / "cache"
        if not cache.exists():
            shutil.copytree(kept, cache) if kept.is_dir() else cache.mkdir()
        return cache

    def command(self):
        return [self._hearth.programs / "hearth-libvirt", f"--run-directory={self.files}", f"--accel={self.accel}"]

    def pids(self):
        """The QEMUs whose command lines name a file of this Hearth: all have their kernel there."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = file.read_bytes()
            except OSError:
                continue
            program = arguments.split(b"\0", 1)[0]
            if b"qemu-system" in program and bytes(self.files) in arguments:
                found.append(int(file.parent.name))
        return sorted(found)

    def left(self):
        folders = [self.embed / name for name in self.DRIVER_FOLDERS]
        if any(option.startswith("--uri=qemu:///system") for option in self._hearth.launcher_extra):
            folders = [Path(name) for name in self.DAEMON_FOLDERS]
        left = list((self.files / "machines").rglob("*"))
        for folder in folders:
            left += [path for pattern in ("*hearth-*", "qmp-*") for path in folder.glob(pattern)]
        return [str(path) for path in left]

    def left_at_end(self):
        """All but the locks and the embedded driver's configuration and cache goes."""
        stays = (self.files / "lock", self.embed / "lock", self.embed / "etc/qemu.conf")
        left = [path for path in self.files.rglob("*")
                if not path.is_dir() and self.embed / "cache" not in path.parents and path not in stays]
        left += [self._hearth.launcher_socket] if self._hearth.launcher_socket.exists() else []
        return [str(path) for path in left]


BACKENDS = {backend.name: backend for backend in (Kvm, Libvirt)}
