# SPDX-License-Identifier: Apache-2.0
"""The scripts, each in a tree of its own where stubs stand for all that they call."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Tree:
    """A copy of some scripts; stubs take the place of the programs they run."""

    def __init__(self, *scripts):
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        for script in scripts:
            place = self.path / script
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / script, place)

    def stub(self, name, *lines):
        """`name` is a path in the tree, or without a folder a program that is found in PATH."""
        place = self.path / (name if "/" in name else f"bin/{name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        place.chmod(0o755)

    def run(self, script, *arguments):
        """(exit code, all that it printed)"""
        environment = {**os.environ, "PATH": f"{self.path}/bin:{os.environ['PATH']}", "HEARTH_CACHE": f"{self.path}/cache"}
        done = subprocess.run([self.path / script, *arguments], env=environment, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return done.returncode, done.stdout

    def close(self):
        self._folder.cleanup()


class ScriptsTest(unittest.TestCase):
    def tree(self, *scripts):
        tree = Tree(*scripts)
        self.addCleanup(tree.close)
        return tree


class Quickstart(ScriptsTest):
    def test_a_build_that_fails_ends_it_and_its_last_words_are_shown(self):
        tree = self.tree("scripts/quickstart")
        tree.stub("scripts/install-deps")
        tree.stub("scripts/build-kernel")
        tree.stub("cmake", '[ "$1" = --build ] || exit 0', "echo '[1/2] compiling'", "echo 'the last words'", "exit 1")
        code, said = tree.run("scripts/quickstart")
        self.assertEqual(code, 1, said)
        self.assertIn("the last words", said)
        self.assertIn('the stage "programs" failed', said)
        self.assertNotIn("[3/4]", said)


if __name__ == "__main__":
    unittest.main()
