# SPDX-License-Identifier: Apache-2.0
"""Runs the Python examples' handlers right here. ctest calls it as examples_python."""

import importlib.util
import io
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Thumbnail(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            import PIL.Image
        except ImportError:
            raise unittest.SkipTest("python3-pil is not installed") from None
        cls.image = PIL.Image
        cls.module = load(HERE / "thumbnail/handler.py")
        cls.handler = staticmethod(cls.module.thumbnail)

    def picture(self, size, kind="JPEG", mode="RGB"):
        file = io.BytesIO()
        self.image.linear_gradient("L").resize(size).convert(mode).save(file, kind)
        return file.getvalue()

    def result(self, payload):
        body, content_type = self.handler(payload, None)
        self.assertEqual(content_type, "image/png")
        return self.image.open(io.BytesIO(body))

    def test_a_photo_becomes_a_png_256_pixels_wide(self):
        result = self.result(self.picture((4032, 3024)))
        self.assertEqual((result.format, result.size), ("PNG", (256, 192)))

    def test_it_shows_the_same_picture(self):
        result = self.result(self.picture((1024, 1024)))
        top, bottom = result.convert("L").getpixel((128, 5)), result.convert("L").getpixel((128, 250))
        self.assertLess(top, 20)
        self.assertGreater(bottom, 235)

    def test_other_kinds_of_picture_pass(self):
        for kind, mode in (("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("JPEG", "CMYK"), ("TIFF", "L")):
            with self.subTest(kind=kind, mode=mode):
                self.assertEqual(self.result(self.picture((600, 300), kind, mode)).size, (256, 128))

    def test_its_hook_needs_no_picture_of_anyones(self):
        self.module.warm_up()

    def test_what_is_no_picture_is_said_so(self):
        for payload in (b"", b"no picture", self.picture((600, 300))[:400], {"json": 1}):
            with self.subTest(payload=str(payload)[:20]), self.assertRaises(ValueError):
                self.handler(payload, None)


class WordFrequency(unittest.TestCase):
    handler = staticmethod(load(HERE / "wordfreq/wordfreq.py").handler)

    def test_a_real_text_is_counted(self):
        result = self.handler(Path("/usr/share/common-licenses/GPL-3").read_bytes(), None)
        self.assertEqual(result["top"][0]["word"], "the")
        self.assertGreater(result["words"], 5000)
        self.assertEqual(len(result["top"]), 20)

    def test_words_of_any_script_count_and_order_is_settled(self):
        result = self.handler("Über über Straße don't 42 дом Дом b a".encode(), None)
        self.assertEqual(result["words"], 8)
        self.assertEqual([entry["word"] for entry in result["top"]], ["über", "дом", "a", "b", "don't", "straße"])

    def test_broken_bytes_and_json_strings_pass_and_other_json_does_not(self):
        self.assertEqual(self.handler(b"\xff\xfeabc abc", None)["top"][0], {"word": "abc", "count": 2})
        self.assertEqual(self.handler("one", None)["distinct"], 1)
        self.assertEqual(self.handler(b"", None), {"words": 0, "distinct": 0, "top": []})
        with self.assertRaises(ValueError):
            self.handler([1], None)


class TraceFunction(unittest.TestCase):
    handler = staticmethod(load(HERE / "trace-function/trace_function.py").handler)

    def test_it_is_busy_and_uses_memory_as_asked_and_says_so(self):
        result = self.handler({"runtimeInMilliSec": 20, "memoryInMebiBytes": 200}, None)
        self.assertGreaterEqual(result["durationInMicroSec"], 20_000)
        self.assertAlmostEqual(result["memoryUsageInKb"], 200 * 1024, delta=8 * 1024)

    def test_nothing_asked_is_nothing_done(self):
        self.assertGreater(self.handler({}, None)["memoryUsageInKb"], 0)
        self.handler({"runtimeInMilliSec": 0, "memoryInMebiBytes": 1}, None)

    def test_what_is_no_amount_is_said_so(self):
        for event in ([], {"runtimeInMilliSec": -1}, {"memoryInMebiBytes": 1.5}, {"memoryInMebiBytes": True}, b""):
            with self.subTest(event=event), self.assertRaises(ValueError):
                self.handler(event, None)


if __name__ == "__main__":
    unittest.main()
