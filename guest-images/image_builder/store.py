# SPDX-License-Identifier: Apache-2.0
"""The image store: a folder of files named by their SHA-256, and a manifest that says what they are."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from . import ImageError

# Any fixed value does: equal content must give an equal image.
_EROFS_UUID = "68656172-7468-4000-8000-000000000000"


def make_erofs(root, image, compress):
    """An image of the folder whose bytes depend on names, modes and content only."""
    command = ["mkfs.erofs", "-T0", "-U", _EROFS_UUID, "--all-root", "-x-1", str(image), str(root)]
    if compress:
        command.insert(1, "-zlz4hc,12")
    try:
        done = subprocess.run(command, text=True, capture_output=True)
    except FileNotFoundError:
        raise ImageError("mkfs.erofs is missing; install the package erofs-utils") from None
    if done.returncode != 0:
        raise ImageError(f"mkfs.erofs failed: {(done.stderr or done.stdout).strip()}")


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (self.folder / "recipes").mkdir(exist_ok=True)

    @contextmanager
    def locked(self):
        """One builder at a time; a second waits."""
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # What a builder that was killed left behind.
            for left in [*self.folder.glob(".staging-*"), *self.folder.rglob(".partial-*")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield

    @contextmanager
    def staging(self):
        folder = tempfile.mkdtemp(prefix=".staging-", dir=self.folder)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, path):
        """Moves (same file system) or copies the file in; returns how the manifest names it."""
        digest = sha256_of(path)
        relative = f"blobs/sha256/{digest}"
        blob = self.folder / relative
        if not blob.exists():
            handle, partial = tempfile.mkstemp(prefix=".partial-", dir=blob.parent)
            with open(path, "rb") as source, open(handle, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            os.chmod(partial, 0o444)
            os.rename(partial, blob)
        return {"path": relative, "digest": f"sha256:{digest}"}

    def _recipe(self, key):
        return self.folder / "recipes" / f"{key}.json"

    def recall(self, key):
        """What was made from this recipe before, if it is still there, whole."""
        try:
            entry = json.loads(self._recipe(key).read_text())
            if sha256_of(self.folder / entry["path"]) == entry["digest"].removeprefix("sha256:"):
                return entry
        except (OSError, ValueError, KeyError):
            return None
        # Damaged: made again, in the same place.
        (self.folder / entry["path"]).unlink(missing_ok=True)
        return None

    def remember(self, key, entry):
        self._write_json(self._recipe(key), entry)

    def write_manifest(self, manifest):
        self._write_json(self.folder / "manifest.json", manifest)

    def read_manifest(self):
        try:
            return json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError):
            return {}

    @staticmethod
    def _write_json(path, value):
        handle, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        with open(handle, "w") as file:
            json.dump(value, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.rename(partial, path)
