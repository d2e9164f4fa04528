# SPDX-License-Identifier: Apache-2.0
"""What the runtime does around a snapshot. Imported when one is to be taken, so that starts without one do not pay."""

import gc
import os
import sys

# The modules that hold hooks, if the function imported them. Its own copy of snapshot-restore-py counts too.
_REGISTRIES = ("hearth_snapshot", "snapshot_restore_py")


def _hooks(getter):
    found = []
    for name in _REGISTRIES:
        hooks = getattr(sys.modules.get(name), getter, list)()
        if not any(hooks is other for other in found):
            found.append(hooks)
    return [hook for hooks in found for hook in hooks]


def run_before_snapshot():
    """Calls the hooks, the last registered first, and leaves nothing unsaid."""
    for func, args, kwargs in reversed(_hooks("get_before_snapshot")):
        func(*args, **kwargs)
    sys.stdout.flush()
    sys.stderr.flush()
    # Garbage is not worth a place in the snapshot. What lives now mostly lives as long as the instance: left out of
    # later collections, its pages are not written to and stay shared between instances.
    gc.collect()
    gc.freeze()


def run_after_restore(environment):
    """`environment`: NAME=value and a NUL, for each variable of the instance. Then the hooks, in their order."""
    for entry in bytes(environment).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            os.environb[name] = value
    reseed()
    for func, args, kwargs in _hooks("get_after_restore"):
        func(*args, **kwargs)
    sys.stdout.flush()


def reseed():
    """Gives the generators whose state was in the snapshot new seeds from the kernel, whose own is new already.

    Only modules that are imported: what comes later seeds itself. Nothing is imported here.
    """
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None
    if "uuid" in modules:
        uuid = modules["uuid"]
        # uuid4 asks the kernel each time. uuid1 has a node and a clock sequence, in libuuid too, which is left out.
        if hasattr(uuid, "_random_getnode"):
            uuid._generate_time_safe = None
            uuid._node = uuid._random_getnode()
            uuid._last_timestamp = None
    _reseed_openssl(modules)
    # The legacy global generator; a Generator that the function made is the function's to renew.
    if "numpy.random" in modules:
        modules["numpy.random"].seed()


def _reseed_openssl(modules):
    """RAND_add reseeds the process's primary generator from the kernel, and with the bytes; each thread's own generators
    see at their next use that their parent was reseeded, and follow."""
    if "_ssl" in modules:
        modules["_ssl"].RAND_add(os.urandom(48), 48.0)
    elif "_ctypes" in modules:
        import ctypes  # It is loaded: its C half is.

        try:
            crypto = ctypes.CDLL("libcrypto.so.3", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            return
        crypto.RAND_add.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_double)
        crypto.RAND_add(os.urandom(48), 48, 48.0)
