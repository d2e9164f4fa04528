# SPDX-License-Identifier: Apache-2.0
"""Hooks around a snapshot of a function's instance.

    from hearth_snapshot import after_restore, before_snapshot

    @before_snapshot
    def close(): ...          # Before the snapshot is taken, the last registered first.

    @after_restore
    def connect(): ...        # In each instance that starts from it, the first registered first.

Hooks are registered while the function's module is imported. os.environ has the instance's own variables, and
the generators of random, tempfile, uuid and OpenSSL are seeded anew, when an after_restore hook runs. An exception
in a hook fails the deployment, or the start of the instance. register_before_snapshot and register_after_restore,
which take arguments for the function, are named as in the package snapshot-restore-py, whose import works too.
"""

_before_snapshot = []
_after_restore = []


def register_before_snapshot(func, *args, **kwargs):
    """Has func(*args, **kwargs) called before the snapshot. Returns func."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(func, *args, **kwargs):
    """Has func(*args, **kwargs) called after the restore. Returns func."""
    _after_restore.append((func, args, kwargs))
    return func


def before_snapshot(func):
    """Decorator: has func() called before the snapshot."""
    return register_before_snapshot(func)


def after_restore(func):
    """Decorator: has func() called after the restore."""
    return register_after_restore(func)


def get_before_snapshot():
    """What was registered, in that order: (func, args, kwargs)."""
    return _before_snapshot


def get_after_restore():
    """What was registered, in that order: (func, args, kwargs)."""
    return _after_restore
