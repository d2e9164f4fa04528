# SPDX-License-Identifier: Apache-2.0
"""A root file system as a folder: packages unpacked into it, what is useless left out."""

import fnmatch
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from . import ImageError

# Debian's merged /usr: packages still name some files by their old places.
MERGED = ("bin", "sbin", "lib", "lib64")


def normalise(name):
    """A member's or link target's path below the root, "usr/bin/sh"; nothing may climb out of it."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    if ".." in parts:
        raise ImageError(f"a package holds a path that leaves its root: {name}")
    if parts and parts[0] in MERGED:
        parts.insert(0, "usr")
    return "/".join(parts)


def place(root, path):
    """Where a normalised path is below `root`. It may name a link, but not lie behind one: a link of a package
    means another place here than in the guest, perhaps one of this machine's own."""
    found = Path(root)
    for part in PurePosixPath(path).parts:
        if found.is_symlink():
            raise ImageError(f"{path} lies behind a link: {found.relative_to(root)} -> {os.readlink(found)}")
        found /= part
    return found


def _make_place(root, name):
    """place() of a path that need not be normalised, in a folder that exists from now on."""
    found = place(root, normalise(name))
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


class Pruner:
    """Which paths are left out: the last pattern that matches decides, "!" in front keeps."""

    def __init__(self, patterns):
        self._rules = [(pattern.removeprefix("!").lstrip("/"), not pattern.startswith("!")) for pattern in patterns]

    def drops(self, path):
        dropped = False
        for pattern, drop in self._rules:
            # A pattern that names a folder stands for all below it.
            if fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, pattern + "/*"):
                dropped = drop
        return dropped


def _mode(mode):
    """No set-uid or set-gid programs: user code has nothing to gain by them but an attack surface."""
    return stat.S_IMODE(mode) & 0o1777


def unpack(deb, root, pruner):
    """Unpacks one package; runs nothing of it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                path = normalise(member.name)
                if path and not pruner.drops(path):
                    _extract(archive, member, _make_place(root, path), root)
    if process.returncode != 0:
        raise ImageError(f"dpkg-deb cannot read {deb}")


def _extract(archive, member, target, root):
    if member.isdir():
        # Another package's link to a folder stays, as for dpkg.
        if not target.is_symlink():
            target.mkdir(exist_ok=True)
        return
    if target.is_symlink() or target.exists():
        target.unlink()
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        os.link(place(root, normalise(member.linkname)), target, follow_symlinks=False)
    elif member.isfile():
        with archive.extractfile(member) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file)
        target.chmod(_mode(member.mode))
    else:
        raise ImageError(f"a package holds a special file: {member.name}")


def finish_merge(root):
    """The links of a merged /usr."""
    root = Path(root)
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")


def copy_in(source, root, destination, mode=None):
    """A file or a folder of ours, without its tests; what is executable by its owner is so by all."""
    source, target = Path(source), normalise(destination)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    if not files:
        raise ImageError(f"{source} is missing or empty")
    for file in files:
        if "__pycache__" in file.parts or file.name.endswith("_test.py"):
            continue
        copy = _make_place(root, target if file is source else f"{target}/{file.relative_to(source)}")
        copy.unlink(missing_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(mode if mode is not None else 0o755 if file.stat().st_mode & 0o100 else 0o644)


def link(root, path, target):
    made = _make_place(root, path)
    if made.is_symlink() or made.exists():
        made.unlink()
    made.symlink_to(target)


def make_folder(root, path, mode=0o755):
    folder = _make_place(root, path)
    if folder.is_symlink():
        raise ImageError(f"{path} is to be a folder, and is a link to {os.readlink(folder)}")
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)


def write_library_cache(root):
    """/etc/ld.so.cache, so that programs find libraries at once. ldconfig is this machine's."""
    done = subprocess.run(["/sbin/ldconfig", "-X", "-r", str(root)], text=True, capture_output=True)
    if done.returncode != 0:
        raise ImageError(f"ldconfig failed: {done.stderr.strip()}")
    # Holds inode numbers and times of this machine.
    shutil.rmtree(place(root, "var/cache/ldconfig"), ignore_errors=True)


def compile_python(root, interpreter, folders):
    """Byte code beside each module, trusted without looking at the source's time."""
    root = Path(root)
    if not Path(interpreter).exists():
        raise ImageError(f"{interpreter} is missing; install the package {Path(interpreter).name}")
    command = [interpreter, "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash",
               "-s", str(root), "-p", "/", *[str(place(root, normalise(folder))) for folder in folders]]
    # The order of set constants in byte code hangs on the hash seed.
    environment = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, cwd="/", text=True, capture_output=True)
    if done.returncode != 0:
        raise ImageError(f"compiling Python modules failed:\n{(done.stdout + done.stderr).strip()}")


def settle_modes(root):
    """Folders' modes must not depend on whoever unpacked them."""
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755)
    Path(root).chmod(0o755)
