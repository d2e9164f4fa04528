# SPDX-License-Identifier: Apache-2.0
"""Debian packages through apt's own configured sources: which ones an image needs, and their files.

apt resolves against an empty status file, so that the answer does not depend on what this machine
has installed. Nothing of a package is ever run: files are downloaded, checked and unpacked.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import ImageError

# As if nothing were installed, without locks, as whoever runs this.
_OPTIONS = [
    "-o", "Dir::State::status=/dev/null",
    "-o", "Debug::NoLocking=1",
    "-o", "APT::Sandbox::User=root",
    "-o", "APT::Install-Recommends=false",
]
_INSTALL_LINE = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) .*\[(?P<architecture>[a-z0-9-]+)\]\)")
_DEPENDENCY_NAME = re.compile(r"^\s*([a-z0-9][a-z0-9+.-]+)")


@dataclass
class Package:
    name: str
    version: str
    file: str  # As apt-get download names it.
    size_bytes: int = 0
    sha256: str = ""
    depends: list = field(default_factory=list)  # Groups of alternative names.
    provides: list = field(default_factory=list)


def _apt(command, *arguments):
    environment = dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive")
    done = subprocess.run([command, *_OPTIONS, *arguments], env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        message = done.stderr.strip() or done.stdout.strip()
        if "Unable to locate package" in message:
            message += "\napt's package lists may be missing or old: run apt-get update"
        raise ImageError(f"{command} {' '.join(arguments[:3])} failed:\n{message}")
    return done.stdout


def parse_simulation(text):
    """The packages in the output of apt-get install --simulate."""
    packages = []
    for match in filter(None, map(_INSTALL_LINE.match, text.splitlines())):
        name, version = match["name"].split(":")[0], match["version"]
        packages.append(Package(name, version, f"{name}_{version.replace(':', '%3a')}_{match['architecture']}.deb"))
    return packages


def parse_records(text):
    """apt-cache show's paragraphs as dictionaries; continuation lines are dropped."""
    for paragraph in text.split("\n\n"):
        record = {}
        for line in paragraph.splitlines():
            if line[:1] not in (" ", "\t") and ":" in line:
                key, value = line.split(":", 1)
                record[key] = value.strip()
        if record:
            yield record


def parse_dependencies(value):
    """"a (>= 1), b | c:any" -> [["a"], ["b", "c"]]."""
    groups = []
    for group in value.split(","):
        names = [match[1] for match in map(_DEPENDENCY_NAME.match, group.split("|")) if match]
        if names:
            groups.append(names)
    return groups


def reachable(packages, roots, leave_out):
    """What `roots` depend on among `packages`, never through a package of `leave_out`."""
    by_name = {}
    for package in packages:
        for name in [package.name, *package.provides]:
            by_name.setdefault(name, package)
    wanted, queue = {}, list(roots)
    while queue:
        package = by_name.get(queue.pop())
        if package is None or package.name in leave_out or package.name in wanted:
            continue
        wanted[package.name] = package
        for group in package.depends:
            # apt's answer holds at least one alternative of each group.
            queue.extend(next(([name] for name in group if name in by_name), []))
    return sorted(wanted.values(), key=lambda package: package.name)


def resolve(roots, leave_out=()):
    """The packages that make `roots` work, without `leave_out` and what only those need."""
    packages = parse_simulation(_apt("apt-get", "install", "--simulate", "--quiet", *roots))
    if not packages:
        raise ImageError(f"apt knows no way to install {' '.join(roots)}; run apt-get update")
    records = {}
    for record in parse_records(_apt("apt-cache", "show", "--no-all-versions", *[f"{p.name}={p.version}" for p in packages])):
        records[record["Package"], record["Version"]] = record
    for package in packages:
        record = records.get((package.name, package.version))
        if record is None:
            raise ImageError(f"apt-cache says nothing about {package.name} {package.version}; run apt-get update")
        package.sha256, package.size_bytes = record["SHA256"], int(record["Size"])
        package.depends = parse_dependencies(record.get("Pre-Depends", "")) + parse_dependencies(record.get("Depends", ""))
        package.provides = [group[0] for group in parse_dependencies(record.get("Provides", ""))]
    return reachable(packages, roots, set(leave_out))


def _lists_state(folders):
    """Changes whenever apt could answer otherwise."""
    state = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and os.access(path, os.R_OK):
                info = path.stat()
                state.append([str(path), info.st_size, info.st_mtime_ns])
    return state


@contextlib.contextmanager
def _locked(folder):
    """The folder of packages is shared by all builds of this user; one at a time changes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def resolve_once(roots, leave_out, folder, apt_folders=("/etc/apt", "/var/lib/apt/lists")):
    """resolve, remembered in `folder` for as long as apt's lists and settings stay as they are."""
    key = json.dumps([sorted(roots), sorted(leave_out), _lists_state(apt_folders)])
    path = Path(folder) / f"resolved-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    with _locked(path.parent):
        try:
            return [Package(**entry) for entry in json.loads(path.read_text())]
        except (OSError, ValueError, TypeError):
            packages = resolve(roots, leave_out)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(package) for package in packages]))
        partial.rename(path)
    return packages


def _is_whole(path, package):
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
    except FileNotFoundError:
        return False


def missing(packages, folder):
    return [package for package in packages if not _is_whole(Path(folder) / package.file, package)]


def download(packages, folder):
    """Makes sure that each package's file is in `folder` and is what apt's signed lists say."""
    folder = Path(folder)
    with _locked(folder):
        _download(packages, folder)
    return [folder / package.file for package in packages]


def _download(packages, folder):
    (folder / "partial").mkdir(exist_ok=True)
    needed = missing(packages, folder)
    for package in needed:
        (folder / package.file).unlink(missing_ok=True)
    if needed:
        # download, not install: one package may be wanted without what it depends on.
        environment = dict(os.environ, LC_ALL="C")
        names = [f"{package.name}={package.version}" for package in needed]
        done = subprocess.run(["apt-get", *_OPTIONS, "download", "--quiet", *names],
                              cwd=folder, env=environment, text=True, capture_output=True)
        if done.returncode != 0:
            raise ImageError(f"downloading packages failed:\n{done.stderr.strip()}\nIs there a network? Else: apt-get update")
    for package in missing(needed, folder):
        raise ImageError(f"{package.file} was downloaded, but is not what apt's lists say; run apt-get update")
