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

class Test(ScriptsTest):
    def test_a_check_that_fails_fails_its_stage_though_the_last_one_passes(self):
        tree = self.tree("scripts/test")
        tree.stub("scripts/check-format", "exit 1")
        tree.stub("scripts/check-tidy")
        code, said = tree.run("scripts/test", "style")
        self.assertEqual(code, 1, said)
        self.assertRegex(said, r"(?m)^style +FAILED")
        self.assertIn("1 passed, 1 failed", said)

    def test_a_misspelt_stage_is_told_before_anything_runs(self):
        tree = self.tree("scripts/test")
        tree.stub("scripts/check-format")
        tree.stub("scripts/check-tidy")
        code, said = tree.run("scripts/test", "style", "integratoin")
        self.assertEqual(code, 2, said)
        self.assertIn("no stage integratoin", said)
        self.assertNotIn("== style", said)

    def test_a_program_that_ends_badly_has_failed_though_it_counts_no_failure(self):
        for full in ([], ["--full"]):
            tree = self.tree("scripts/test")
            tree.stub("tests/integration/run-in-testbed", "echo '3 passed, 0 failed, 0 skipped'", "exit 1")
            code, said = tree.run("scripts/test", *full, "integration")
            self.assertEqual(code, 1, said)
            self.assertIn("ended with 1, though no case of it failed", said)

    def test_quickstart_is_run_in_a_fresh_clone_twice_and_in_the_testbed(self):
        for ends, wanted in (("", ["", "", "--testbed"]), ("exit 1", [""])):
            tree = self.tree("scripts/test")
            runs = tree.path / "runs"
            tree.stub("scripts/quickstart", f'echo "$1" >>{runs}', f'[ "$HEARTH_CACHE" != {tree.path}/cache ] || exit 1', ends)
            git = ["git", "-C", tree.path, "-c", "user.name=t", "-c", "user.email=t"]
            for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
                subprocess.run([*git, *command], check=True)
            code, said = tree.run("scripts/test", "quickstart")
            self.assertEqual(code, 1 if ends else 0, said)
            self.assertEqual(runs.read_text().splitlines(), wanted)
            self.assertFalse((tree.path / "build/quickstart-clone").exists())


class RunInTestbed(ScriptsTest):
    def run_in_testbed(self, first, second):
        """With two testbeds that say and do so."""
        tree = self.tree("tests/integration/run-in-testbed")
        tree.stub("guest-images/build", "echo images")
        tree.stub("examples/fetch-photo", "echo photo")
        tree.stub("tests/testbed/run", 'case "$*" in', f"*1/2) {first} ;;", f"*2/2) {second} ;;", "esac")
        (tree.path / "build").mkdir()
        return tree.run("tests/integration/run-in-testbed", "--build", tree.path / "build", "--testbed", "--jobs", "2")

    def test_the_parts_are_added_up(self):
        code, said = self.run_in_testbed("echo 3 passed, 0 failed, 1 skipped", "echo 2 passed, 0 failed, 0 skipped")
        self.assertEqual(code, 0, said)
        self.assertEqual(said.splitlines()[-1], "5 passed, 0 failed, 1 skipped")

    def test_a_testbed_that_dies_is_a_failed_case(self):
        good = "echo 3 passed, 0 failed, 0 skipped"
        for parts in (("exit 124", good), (good, "exit 124"), (good, "exit 0")):
            code, said = self.run_in_testbed(*parts)
            self.assertEqual(code, 1, said)
            self.assertEqual(said.splitlines()[-1], "3 passed, 1 failed, 0 skipped")


class RunTest(ScriptsTest):
    def test_a_program_that_skips_and_passes_is_skipped_and_one_that_fails_has_failed(self):
        tree = self.tree("cmake/run-test")
        for wanted, *lines in [(0, "echo fine"), (77, "echo SKIPPED: needs root"), (1, "echo SKIPPED: needs root", "exit 1"),
                               (1, "exit 77"), (137, "kill -KILL $$")]:
            tree.stub("test/program", *lines)
            code, said = tree.run("cmake/run-test", tree.path / "test/program")
            self.assertEqual(code, wanted, lines)


if __name__ == "__main__":
    unittest.main()
