# SPDX-License-Identifier: Apache-2.0
"""Runtime manifests: the JSON files of ../runtimes, each a runtime's start and its image's recipe."""

import json
import re
from pathlib import Path

from . import ImageError

_LISTS = ("packages", "leaveOut", "prune")
_TABLES = ("folders", "files", "links")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


def _check(condition, path, message):
    if not condition:
        raise ImageError(f"{path}: {message}")


def load(path):
    path = Path(path)
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {error}") from None
    _check(isinstance(manifest, dict), path, "is not a JSON object")
    name = manifest.get("name")
    _check(isinstance(name, str) and _NAME.fullmatch(name), path, "needs a name of lower-case letters, digits, dots and dashes")
    _check(path.stem == name, path, f"is named otherwise than the runtime in it, {name}")
    argv = manifest.get("argv")
    _check(isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv), path, "argv must be a list of strings")
    _check(argv[0].startswith("/"), path, "argv must start with an absolute path")
    env = manifest.get("env", {})
    _check(isinstance(env, dict) and all(isinstance(value, str) for value in env.values()), path, "env must be a table of strings")
    _check(isinstance(manifest.get("image"), dict), path, "needs an image recipe")
    return manifest


def load_all(folder):
    """All runtimes by name, with `extends` resolved in their images' recipes."""
    manifests = {path.stem: load(path) for path in sorted(Path(folder).glob("*.json"))}
    return {name: dict(manifest, image=_extended(manifests, name, ())) for name, manifest in manifests.items()}


def _extended(manifests, name, seen):
    if name in seen or name not in manifests:
        raise ImageError(f"runtimes/{seen[-1] if seen else name}.json: extends {name}, which is missing or extends it in turn")
    own = manifests[name]["image"]
    unknown = set(own) - {"extends", "compilePython", *_LISTS, *_TABLES}
    if unknown:
        raise ImageError(f"runtimes/{name}.json: unknown in image: {', '.join(sorted(unknown))}")
    base = _extended(manifests, own["extends"], (*seen, name)) if "extends" in own else {}
    merged = {key: base.get(key, []) + own.get(key, []) for key in _LISTS}
    merged |= {key: base.get(key, {}) | own.get(key, {}) for key in _TABLES}
    compile_python = own.get("compilePython", base.get("compilePython"))
    if compile_python:
        merged["compilePython"] = compile_python
    return merged


def public_part(manifest):
    """What hearthd reads: everything but how the image is made."""
    return {key: value for key, value in manifest.items() if key != "image"}
