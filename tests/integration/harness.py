# SPDX-License-Identifier: Apache-2.0
"""A Hearth of a test's own: the backend's launcher as root, hearthd as nobody's user, both to be killed at will."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import reflection
from backends import Kvm

HERE = Path(__file__).resolve().parent
HEARTHD_UID = 64918
START_SECONDS = 240
GONE_SECONDS = 60
PROGRAMS = {"hearth": "cli/hearth", "hearthd": "control-plane/hearthd"}
READY = re.compile(rb"\bready\b")
CLONE_NEWNS = 0x00020000


class Failed(Exception):
    """A check did not hold; the text says which."""


class Skipped(Exception):
    """A case cannot be run here; the text says why."""


def check(condition, text):
    if not condition:
        raise Failed(text)


def check_in(wanted, text):
    check(wanted.lower() in text.lower(), f"{wanted!r} should be in: {text.strip()}")


def await_true(condition, what, seconds=GONE_SECONDS, every=0.05):
    """For what other processes do in their own time; the only waits of these tests that poll."""
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, f"{what}: not within {seconds} s")
        time.sleep(every)


def enter_private_mounts():
    """Mounts made from here on are this process's and its children's only, and go with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise SystemExit(f"integration: unshare: {os.strerror(ctypes.get_errno())}; the tests need root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Daemon:
    def __init__(self, name, command, log):
        self.name, self.log = name, log
        self._ready = threading.Event()
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with open(self.log, "ab", buffering=0) as log:
            for line in self.process.stderr:
                log.write(line)
                if READY.search(line):
                    self._ready.set()
        self._ready.set()

    def wait_ready(self):
        check(self._ready.wait(START_SECONDS), f"{self.name} is not ready within {START_SECONDS} s: {self.tail()}")
        if not READY.search(Path(self.log).read_bytes()):
            raise Failed(f"{self.name} ended with {self.process.wait(60)}: {self.tail()}")

    def end(self, signal_number):
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        code = self.process.wait(60)
        self._reader.join(5)
        return code

    def tail(self, lines=15):
        self._reader.join(0.5)
        return "\n    ".join(Path(self.log).read_text(errors="replace").splitlines()[-lines:])


class Programs:
    """What was built, and the image store, where hearthd's user can reach them; and which backend is tested."""

    def __init__(self, build, images, backend=Kvm):
        self.backend = backend
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-bin-"))
        self.folder.chmod(0o755)
        for name, path in {**PROGRAMS, **backend.programs}.items():
            self._show(build / path, self.folder / name)
        self.images = self.folder / "images"
        self._show(images, self.images)

    def _show(self, source, place):
        source = Path(source).resolve()
        if not source.exists():
            raise SystemExit(f"integration: {source} is missing; build it first")
        place.mkdir() if source.is_dir() else place.touch()
        subprocess.run(["mount", "--bind", str(source), str(place)], check=True)

    def __truediv__(self, name):
        return self.folder / name


class Hearth:
    """Started by `with`, or with start=False by the case itself; at its end everything must be gone."""

    def __init__(self, programs, *, images=None, memory_mib=0, idle_stop=300, idle_pause=0.5, state_size=None,
                 waiting_vmms=0, launcher_prefix=(), launcher_extra=(), extra=(), start=True):
        self.programs = programs
        self.images = images or programs.images
        options = {"idle-stop": idle_stop, "idle-pause": idle_pause, "grace": 5, "waiting-vmms": waiting_vmms,
                   **programs.backend.options}
        if memory_mib:
            options["memory-mib"] = memory_mib
        options.update(option[2:].split("=", 1) for option in extra)
        self.options = [f"--{name}={value}" for name, value in options.items()]
        self.launcher_prefix, self.launcher_extra = list(launcher_prefix), list(launcher_extra)
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-it-"))
        self.folder.chmod(0o755)
        for name in ("run", "data"):
            (self.folder / name).mkdir(mode=0o700)
        if state_size:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={state_size}", "tmpfs", self.folder / "data"], check=True)
        for name in ("run", "data"):
            os.chown(self.folder / name, HEARTHD_UID, HEARTHD_UID)
        self.socket = self.folder / "run/hearthd.sock"
        self.launcher_socket = self.folder / "run/launcher.sock"
        self.machines = programs.backend(self)
        self.launcher = self.hearthd = self._api = None
        self._start = start

    def __enter__(self):
        if not self._start:
            return self
        try:
            self.start_launcher()
            self.start_hearthd()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind, value, traceback):
        errors = self._end()
        if kind is None:
            check(not errors, "; ".join(errors))

    def start_launcher(self, wait=True):
        """hearth-launcher, or what stands in its place."""
        self.launcher = Daemon(self.machines.launcher, [
            *self.launcher_prefix, *self.machines.command(), f"--listen={self.launcher_socket}",
            f"--allow-uid={HEARTHD_UID}", *self.launcher_extra,
        ], self.folder / "launcher.log")
        if wait:
            self.launcher.wait_ready()

    def start_hearthd(self, wait=True):
        self.hearthd = Daemon("hearthd", [
            "setpriv", f"--reuid={HEARTHD_UID}", f"--regid={HEARTHD_UID}", "--clear-groups", "--no-new-privs",
            self.programs / "hearthd", f"--socket={self.socket}", f"--state-dir={self.folder}/data",
            f"--images={self.images}", f"--launcher-socket={self.launcher_socket}", *self.options,
        ], self.folder / "hearthd.log")
        if wait:
            self.hearthd.wait_ready()

    def _end(self):
        errors = []
        if self._api:
            self._api.close()
            self._api = None
        for daemon in (self.hearthd, self.launcher):
            if daemon and daemon.process.poll() is None:
                try:
                    code = daemon.end(signal.SIGTERM)
                    if code != 0:
                        errors.append(f"{daemon.name} ended with {code}: {daemon.tail()}")
                except subprocess.TimeoutExpired:
                    daemon.end(signal.SIGKILL)
                    errors.append(f"{daemon.name} did not end at SIGTERM")
        try:
            self.check_nothing_left()
        except Failed as error:
            errors.append(str(error))
        # One that was killed leaves it to the next.
        if self.launcher and self.launcher.process.returncode == 0 and self.machines.left_at_end():
            errors.append(f"left: {self.machines.left_at_end()}")
        subprocess.run(["umount", self.folder / "data"], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)
        return errors

    # What a test looks at.

    def vmms(self):
        return self.machines.pids()

    def check_nothing_left(self):
        """No process of a machine and nothing else of one; to be called when no instance should be."""
        await_true(lambda: not self.vmms(), "every machine's process gone")
        try:
            await_true(lambda: not self.machines.left(), "nothing of a machine left")
        except Failed as error:
            raise Failed(f"{error}: {self.machines.left()}")

    def data_files(self):
        data = self.folder / "data"
        return sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())

    @property
    def api(self):
        if self._api is None:
            self._api = reflection.Client(self.socket)
        return self._api

    def forget_api(self):
        if self._api:
            self._api.close()
            self._api = None

    def _command(self, arguments):
        return [str(self.programs / "hearth"), "--socket", str(self.socket), *map(str, arguments)]

    def start_cli(self, *arguments):
        """The hearth command, while it runs."""
        return subprocess.Popen(self._command(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def cli(self, *arguments, stdin=b"", timeout=600):
        """(exit code, stdout as bytes, stderr as text) of the hearth command."""
        done = subprocess.run(self._command(arguments), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")

    def json(self, *arguments, stdin=b"", code=0):
        """The one JSON document of a command that must end with `code`."""
        ended, out, err = self.cli("--json", *arguments, stdin=stdin)
        check(ended == code, f"hearth {' '.join(map(str, arguments))} ended with {ended}, not {code}: {out.decode(errors='replace')} {err}")
        return json.loads(out)

    def deploy(self, name, *options, folder=None, code=0):
        return self.json("deploy", folder or HERE / "functions" / name, "--name", name, *options, code=code)

    def invoke(self, name, payload=b"{}", *options, code=0, content_type="application/json"):
        return self.json("invoke", name, "--payload", "-", "--content-type", content_type, *options, stdin=payload, code=code)

    def ledger(self, name):
        return self.json("list", "invocations", name, "--limit", "100000")["invocations"]


def forbid_kvm(kind):
    """A command prefix under which /dev/kvm is "absent", "forbidden" or "other" (a device that is no KVM)."""
    # The whole folder is another: programs keep /dev open, and what is mounted in it may not be seen through that.
    script = "mkdir -p /run/dev-away && mount --bind /dev /run/dev-away && mount -t tmpfs -o mode=755,{options} dev /dev"
    for name in ("null", "zero", "urandom"):
        script += f" && touch /dev/{name} && mount --bind /run/dev-away/{name} /dev/{name}"
    if kind == "forbidden":
        # Even root may not open a device of a mount without devices.
        script += " && mknod -m 666 /dev/kvm c 10 232"
    elif kind == "other":
        script += " && mknod -m 666 /dev/kvm c 1 3"
    script = script.replace("{options}", "nodev" if kind == "forbidden" else "dev")
    return ["unshare", "--mount", "sh", "-c", f"{script} && exec \"$@\"", "sh"]


class World:
    """What all cases share: the programs, and one Hearth with the functions of tests/integration/functions."""

    def __init__(self, build, images, photo, full=False, backend=Kvm):
        self.build, self.store, self.photo, self.full = build, images, photo, full
        self.programs = Programs(build, images, backend)
        self._shared = None
        self._deployed = set()

    @staticmethod
    def tell(text):
        """Of a case that takes long: how far it is. What a case returns, a list of lines, is shown at its end."""
        print(f"    {text}", flush=True)

    @property
    def shared(self):
        """A Hearth that cases use but do not break; started by the first that asks."""
        if self._shared is None:
            self._shared = Hearth(self.programs).__enter__()
        return self._shared

    def function(self, name, *options):
        """The shared Hearth, with functions/NAME deployed."""
        if name not in self._deployed:
            self.shared.deploy(name, *options)
            self._deployed.add(name)
        return self.shared

    def close(self):
        """Ends the shared Hearth; what was wrong at its end."""
        if self._shared is None:
            return []
        return [f"the shared Hearth's end: {error}" for error in self._shared._end()]

    def image_store(self, change):
        """A copy of the image store whose manifest `change(manifest, folder)` has altered."""
        folder = Path(tempfile.mkdtemp(prefix="hearth-store-"))
        folder.chmod(0o755)
        manifest = json.loads((self.store / "manifest.json").read_text())
        names = {manifest["kernel"]["path"], manifest["agent"]["path"],
                 *(runtime["image"]["path"] for runtime in manifest["runtimes"].values())}
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.store / name, folder / name)
        change(manifest, folder)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder
