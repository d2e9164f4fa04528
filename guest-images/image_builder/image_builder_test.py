# SPDX-License-Identifier: Apache-2.0
"""Run by ctest (images_unit), or: python3 -m unittest image_builder.image_builder_test in guest-images."""

import fcntl
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
import unittest
import unittest.mock
from pathlib import Path

from image_builder import ImageError, apt, recipe, store, tree


class Temporary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Apt(unittest.TestCase):
    def test_a_simulated_installation_names_packages_versions_and_files(self):
        packages = apt.parse_simulation(
            "Inst libattr1 (1:2.5.1-4 Debian:12.15/oldstable [amd64]) []\n"
            "Inst tzdata [2024a] (2026f-0+deb12u1 Debian:12.15/oldstable [all])\nConf libattr1 (1:2.5.1-4 x [amd64])\n")
        self.assertEqual([(package.name, package.version, package.file) for package in packages],
                         [("libattr1", "1:2.5.1-4", "libattr1_1%3a2.5.1-4_amd64.deb"),
                          ("tzdata", "2026f-0+deb12u1", "tzdata_2026f-0+deb12u1_all.deb")])

    def test_dependencies_are_groups_of_alternatives(self):
        self.assertEqual(apt.parse_dependencies("libc6 (>= 2.34), python3:any | python3.11"), [["libc6"], ["python3", "python3.11"]])
        self.assertEqual(apt.parse_dependencies(""), [])

    def test_what_only_a_package_left_out_needs_is_left_out_too(self):
        packages = [apt.Package("app", "1", "", depends=[["tool"], ["missing", "virtual"]]), apt.Package("tool", "1", "", depends=[["perl"]]),
                    apt.Package("perl", "1", ""), apt.Package("real", "1", "", provides=["virtual"])]
        self.assertEqual([package.name for package in apt.reachable(packages, ["app"], {"tool"})], ["app", "real"])

    def test_a_package_nobody_has_is_a_clear_error(self):
        with self.assertRaisesRegex(ImageError, "apt-get update"):
            apt.resolve(["no-such-package-anywhere"])


class Remembered(Temporary):
    def test_apt_is_asked_again_only_when_its_lists_change(self):
        lists = self.folder / "lists"
        lists.mkdir()
        with unittest.mock.patch.object(apt, "resolve", return_value=[apt.Package("a", "1", "a_1_all.deb")]) as resolve:
            for calls, change in ((1, False), (1, False), (2, True)):
                if change:
                    (lists / "Packages").write_text("new")
                packages = apt.resolve_once(["a"], [], self.folder / "kept", [lists])
                self.assertEqual((packages[0].name, resolve.call_count), ("a", calls))


class Shared(Temporary):
    """Two builds at once share the folder of packages."""

    def assert_locked(self):
        with (self.folder / "lock").open("w") as lock:
            with self.assertRaises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def assert_free(self):
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_apts_answer_is_found_and_kept_by_one_build_at_a_time(self):
        def resolve(*_):
            self.assert_locked()
            return [apt.Package("a", "1", "a_1_all.deb")]
        with unittest.mock.patch.object(apt, "resolve", resolve):
            apt.resolve_once(["a"], [], self.folder, [])
        self.assert_free()

    def test_packages_are_downloaded_by_one_build_at_a_time(self):
        package = apt.Package("a", "1", "a_1_all.deb", sha256=hashlib.sha256(b"deb").hexdigest())
        def run(*_, cwd, **__):
            self.assert_locked()
            (cwd / package.file).write_bytes(b"deb")
            return subprocess.CompletedProcess([], 0, "", "")
        with unittest.mock.patch.object(apt.subprocess, "run", run):
            self.assertEqual(apt.download([package], self.folder), [self.folder / package.file])
        self.assert_free()


class Tree(Temporary):
    def make_deb(self, members):
        """A package as dpkg-deb reads it, with these members in its file system."""
        control, data = self.folder / "control", self.folder / "data.tar"
        (control / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (control / "DEBIAN/control").write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
        with tarfile.open(data, "w") as archive:
            for name, kind, value in members:
                info = tarfile.TarInfo(name)
                info.type, info.mode = kind, 0o4755
                if kind == tarfile.REGTYPE:
                    info.size = len(value)
                    archive.addfile(info, io.BytesIO(value))
                else:
                    info.linkname = value or ""
                    archive.addfile(info)
        empty = self.folder / "x.deb"
        subprocess.run(["dpkg-deb", "-Znone", "-b", control, empty], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["ar", "d", empty, "data.tar"], check=True)
        subprocess.run(["ar", "q", empty, "data.tar"], check=True, cwd=self.folder, stderr=subprocess.DEVNULL)
        return empty

    def test_unpacking_merges_usr_and_drops_set_uid(self):
        root = self.folder / "root"
        root.mkdir()
        deb = self.make_deb([("./bin", tarfile.DIRTYPE, None), ("./bin/su", tarfile.REGTYPE, b"su"),
                             ("./lib/hard", tarfile.LNKTYPE, "./bin/su"), ("./usr/share/man/man1", tarfile.REGTYPE, b"")])
        tree.unpack(deb, root, tree.Pruner(["usr/share/man"]))
        tree.finish_merge(root)
        self.assertEqual((root / "bin/su").read_bytes(), b"su")
        self.assertEqual((root / "usr/bin/su").stat().st_mode & 0o7777, 0o755)
        self.assertEqual((root / "lib/hard").stat().st_ino, (root / "bin/su").stat().st_ino)
        self.assertFalse((root / "usr/share/man").exists())

    def test_a_path_that_climbs_out_is_refused(self):
        with self.assertRaises(ImageError):
            tree.unpack(self.make_deb([("./../etc/shadow", tarfile.REGTYPE, b"x")]), self.folder / "root", tree.Pruner([]))

    def test_nothing_is_written_or_read_through_a_link_of_another_package(self):
        outside, root, pruner = self.folder / "outside", self.folder / "root", tree.Pruner([])
        outside.mkdir()
        (outside / "secret").write_text("host's")
        tree.unpack(self.make_deb([("./etc", tarfile.DIRTYPE, None), ("./etc/x", tarfile.SYMTYPE, str(outside)),
                                   ("./etc/f", tarfile.SYMTYPE, str(outside / "secret"))]), root, pruner)
        for members in ([("./etc/x/f", tarfile.REGTYPE, b"f")], [("./etc/x/y", tarfile.DIRTYPE, None)],
                        [("./etc/x/y", tarfile.SYMTYPE, "z")], [("./etc/hard", tarfile.LNKTYPE, "./etc/x/secret")]):
            with self.subTest(members), self.assertRaisesRegex(ImageError, "behind a link: etc/x"):
                tree.unpack(self.make_deb(members), root, pruner)
        for write in (lambda: tree.copy_in(tree.__file__, root, "/etc/x/f"), lambda: tree.link(root, "/etc/x/f", "y"),
                      lambda: tree.make_folder(root, "/etc/x/f"), lambda: tree.make_folder(root, "/etc/x")):
            with self.assertRaises(ImageError):
                write()
        # A file in a link's place is the file from now on, and a folder leaves it as it is.
        tree.unpack(self.make_deb([("./etc/x", tarfile.DIRTYPE, None), ("./etc/f", tarfile.REGTYPE, b"new")]), root, pruner)
        self.assertTrue((root / "etc/x").is_symlink())
        self.assertFalse((root / "etc/f").is_symlink())
        self.assertEqual([(path.name, path.read_text()) for path in outside.iterdir()], [("secret", "host's")])

    def test_a_device_in_a_package_is_refused(self):
        with self.assertRaises(ImageError):
            tree.unpack(self.make_deb([("./dev/null", tarfile.CHRTYPE, None)]), self.folder / "root", tree.Pruner([]))

    def test_the_last_matching_pattern_decides_what_is_pruned(self):
        pruner = tree.Pruner(["usr/share/doc", "!usr/share/doc/*/copyright"])
        self.assertTrue(pruner.drops("usr/share/doc"))
        self.assertTrue(pruner.drops("usr/share/doc/x/changelog.gz"))
        self.assertFalse(pruner.drops("usr/share/doc/x/copyright"))
        self.assertFalse(pruner.drops("usr/share/docs"))


class Recipes(Temporary):
    def write(self, name, **changes):
        manifest = {"name": name, "argv": ["/bin/x"], "env": {}, "image": {}} | changes
        (self.folder / f"{name}.json").write_text(json.dumps(manifest))

    def test_extends_adds_to_the_other_recipe(self):
        self.write("a", image={"packages": ["p"], "links": {"/x": "y"}})
        self.write("b", image={"extends": "a", "packages": ["q"]})
        image = recipe.load_all(self.folder)["b"]["image"]
        self.assertEqual((image["packages"], image["links"]), (["p", "q"], {"/x": "y"}))

    def test_bad_manifests_are_refused_by_name(self):
        for changes in ({"argv": []}, {"argv": ["x"]}, {"env": {"A": 1}}, {"image": None},
                        {"image": {"unknown": 1}}, {"image": {"extends": "a"}}, {"name": "b"}):
            with self.subTest(changes):
                self.write("a")
                manifest = json.loads((self.folder / "a.json").read_text()) | changes
                (self.folder / "a.json").write_text(json.dumps(manifest))
                with self.assertRaisesRegex(ImageError, r"a\.json"):
                    recipe.load_all(self.folder)

    def test_the_runtimes_of_this_repository_load(self):
        runtimes = recipe.load_all(Path(__file__).resolve().parent.parent / "runtimes")
        self.assertLessEqual({"base", "python3.11"}, set(runtimes))


class Stores(Temporary):
    def test_equal_trees_make_equal_images_whatever_their_times_and_order(self):
        for compress in (False, True):
            digests = set()
            for order in (["a", "b", "c"], ["c", "a", "b"]):
                root = self.folder / "-".join([*order, str(compress)])
                root.mkdir()
                for name in order:
                    (root / name).write_text(name * 5000)
                    os.utime(root / name, (len(digests), ord(order[0])))
                store.make_erofs(root, self.folder / "image", compress)
                digests.add(store.sha256_of(self.folder / "image"))
            self.assertEqual(len(digests), 1)

    def test_a_damaged_blob_is_not_recalled(self):
        images = store.Store(self.folder / "store")
        (self.folder / "x").write_text("content")
        entry = images.add(self.folder / "x")
        images.remember("key", entry)
        self.assertEqual(images.recall("key"), entry)
        blob = images.folder / entry["path"]
        blob.chmod(0o644)
        blob.write_text("other")
        self.assertIsNone(images.recall("key"))
        self.assertFalse(blob.exists())
        self.assertIsNone(images.recall("unknown"))


if __name__ == "__main__":
    unittest.main()
