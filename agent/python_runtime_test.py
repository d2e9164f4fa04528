# SPDX-License-Identifier: Apache-2.0
"""Runs the Python runtime against a Runtime API of a few lines. Called with the folder of bootstrap.py."""

import http.server
import json
import os
import queue
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

RUNTIME = os.path.abspath(sys.argv.pop(1))
PYTHON = "/usr/bin/python3.11" if os.path.exists("/usr/bin/python3.11") else sys.executable


class FakeApi(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.gets.put(self.path.removeprefix("/2018-06-01/runtime/"))
        if self.path.endswith("/restore/next"):
            return self.answer(200, self.server.environment)
        invocation = self.server.events.get()
        if invocation == "snapshot":
            self.server.offered = self.headers["Hearth-Runtime-Snapshot"]
            self.send_response(204)
            return self.end_headers()
        if invocation is None:
            self.close_connection = True
            return
        payload, headers = invocation
        self.answer(200, payload, headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix("/2018-06-01/runtime/")
        self.server.posts.put((path, self.headers, body))
        too_long = path.endswith("/response") and len(body) > self.server.limit
        self.answer(413 if too_long else 202, b'{"status":"OK"}')

    def log_message(self, *_):
        pass


class RuntimeTest(unittest.TestCase):
    def run_function(self, source, events=(), handler="function.handler", files=None, limit=1 << 30, environment=None,
                     restored=b""):
        """Runs the code with these events; (posts, stdout, stderr, exit status)."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeApi)
        server.events, server.posts, server.limit = queue.Queue(), queue.Queue(), limit
        server.gets, server.environment = queue.Queue(), restored
        for number, event in enumerate(events):
            if event == "snapshot":
                server.events.put(event)
                continue
            payload, headers = event
            base = {"Lambda-Runtime-Aws-Request-Id": f"id-{number}",
                    "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 60_000)}
            server.events.put((payload, {**base, **headers}.items()))
        server.events.put(None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with tempfile.TemporaryDirectory() as task_root:
            for name, text in {"function.py": source, **(files or {})}.items():
                path = os.path.join(task_root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(textwrap.dedent(text))
            process = subprocess.run(
                [PYTHON, "-B", os.path.join(RUNTIME, "bootstrap.py")], capture_output=True, text=True, timeout=60, cwd=task_root,
                env={"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}", "_HANDLER": handler,
                     "LAMBDA_TASK_ROOT": task_root, "LANG": "C.UTF-8", **(environment or {})})
        server.shutdown()
        server.server_close()
        self.gets = list(server.gets.queue)
        return list(server.posts.queue), process.stdout, process.stderr, process.returncode

    def one(self, source, payload=b"{}", headers=None, **more):
        posts, stdout, stderr, _ = self.run_function(source, [(payload, headers or {})], **more)
        self.assertTrue(posts, stderr)
        return posts[0]

    def init_error(self, source, **more):
        posts, _, stderr, status = self.run_function(source, **more)
        self.assertEqual([post[0] for post in posts], ["init/error"])
        self.assertEqual(status, 1)
        report = json.loads(posts[0][2])
        self.assertIn(report["errorType"], stderr)
        return report, posts[0][1]["Lambda-Runtime-Function-Error-Type"]

    def test_json_in_json_out(self):
        path, headers, body = self.one("def handler(event, context):\n return {'got': event}", b'{"a": [1, "\xc3\xa9"]}')
        self.assertEqual(path, "invocation/id-0/response")
        self.assertEqual(headers["Content-Type"], "application/json")
        self.assertEqual(json.loads(body), {"got": {"a": [1, "é"]}})

    def test_other_content_types_are_bytes_and_bytes_go_back_as_they_are(self):
        payload = bytes(range(256)) * 5000
        path, headers, body = self.one("def handler(event, context):\n assert type(event) is bytes\n return event[::-1]",
                                       payload, {"Content-Type": "image/jpeg"})
        self.assertEqual(headers["Content-Type"], "application/octet-stream")
        self.assertEqual(body, payload[::-1])

    def test_strings_that_are_no_utf_8_are_escaped(self):
        self.assertEqual(self.one(r"def handler(e, c): return '\udcff'")[2], rb'"\udcff"')
        report = json.loads(self.one(r"def handler(e, c): raise ValueError('\udcff')")[2])
        self.assertEqual((report["errorType"], report["errorMessage"]), ("ValueError", "?"))

    def after(self, source, payload=b"{}", headers=None):
        """The post that a first event leads to, when the runtime served a second one after it."""
        posts, _, stderr, _ = self.run_function(source, [(payload, headers or {}), (b"{}", {})])
        self.assertEqual([post[0].split("/")[1] for post in posts], ["id-0", "id-1"], stderr)
        return posts[0]

    def test_an_exception_may_have_any_name(self):
        for name in ("Ошибка", "Два\r\nX: y"):
            _, headers, body = self.after(f"def handler(e, c): raise type({name!r}, (Exception,), {{}})('why')")
            self.assertEqual(json.loads(body)["errorMessage"], "why")
            self.assertRegex(headers["Lambda-Runtime-Function-Error-Type"], r"^Function\.[?X:y]+$")
            self.assertNotIn("X", headers)

    def test_an_exception_need_not_be_printable(self):
        source = """
            class Odd(Exception):
                def __str__(self): raise self
                __repr__ = __str__
            def handler(event, context): raise %s
        """
        for raised, kind in (("Odd()", "Odd"), ("SystemExit(Odd())", "Runtime.ExitError")):
            report = json.loads(self.after(source % raised)[2])
            self.assertEqual(report["errorType"], kind)
            self.assertIn("<Odd that has no text>", report["errorMessage"])

    def test_a_content_type_that_no_header_can_have_is_an_error(self):
        for kind in ("image/пнг", "a\r\nX: y"):
            report = json.loads(self.after(f"def handler(e, c): return b'PNG', {kind!r}")[2])
            self.assertEqual(report["errorType"], "Runtime.MarshalError")

    def test_a_memoryview_of_any_layout_is_its_bytes(self):
        body = self.after("import array\ndef handler(e, c): return memoryview(array.array('I', [1, 2, 3]))")[2]
        self.assertEqual(body, b"\1\0\0\0\2\0\0\0\3\0\0\0")
        _, headers, body = self.after("def handler(e, c): return memoryview(b'abcdef')[::2], 'text/plain'")
        self.assertEqual((headers["Content-Type"], body), ("text/plain", b"ace"))

    def test_a_trace_id_is_one_invocations(self):
        source = "import os\ndef handler(e, c): return os.environ.get('_X_AMZN_TRACE_ID')"
        posts, _, _, _ = self.run_function(source, [(b"1", {"Lambda-Runtime-Trace-Id": "Root=1"}), (b"1", {})])
        self.assertEqual([json.loads(post[2]) for post in posts], ["Root=1", None])

    def test_a_pair_of_bytes_and_string_names_the_content_type(self):
        _, headers, body = self.one("def handler(event, context):\n return b'PNG', 'image/png'")
        self.assertEqual((headers["Content-Type"], body), ("image/png", b"PNG"))

    def test_no_payload_is_none(self):
        self.assertEqual(self.one("def handler(event, context):\n return event is None", b"")[2], b"true")

    def test_invocations_share_the_module_and_keep_their_order(self):
        source = "n = 0\ndef handler(event, context):\n global n\n n += 1\n return [n, event, context.aws_request_id]"
        posts, _, _, _ = self.run_function(source, [(str(i).encode(), {}) for i in range(5)])
        self.assertEqual([json.loads(p[2]) for p in posts], [[i + 1, i, f"id-{i}"] for i in range(5)])

    def test_the_context_is_lambdas(self):
        source = """
            def handler(event, context):
                return [context.function_name, context.function_version, context.memory_limit_in_mb,
                        context.invoked_function_arn, context.client_context, context.content_type,
                        0 < context.get_remaining_time_in_millis() <= 60_000]
        """
        body = self.one(source, b"1", {"Lambda-Runtime-Invoked-Function-Arn": "arn", "Content-Type": "application/json",
                                       "Lambda-Runtime-Client-Context": '{"k": 1}'},
                        environment={"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_VERSION": "7",
                                     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"})[2]
        self.assertEqual(json.loads(body), ["f", "7", "128", "arn", {"k": 1}, "application/json", True])

    def test_an_exception_is_reported_with_its_trace_and_the_next_invocation_goes_on(self):
        source = "def deep(x):\n    return 1 / x\ndef handler(event, context):\n    return deep(event)\n"
        posts, _, stderr, _ = self.run_function(source, [(b"0", {}), (b"2", {})])
        self.assertEqual([p[0] for p in posts], ["invocation/id-0/error", "invocation/id-1/response"])
        report = json.loads(posts[0][2])
        self.assertEqual((report["errorType"], report["errorMessage"]), ("ZeroDivisionError", "division by zero"))
        self.assertEqual(len(report["stackTrace"]), 2)
        self.assertIn("line 4, in handler", report["stackTrace"][0])
        self.assertIn("line 2, in deep", report["stackTrace"][1])
        self.assertEqual(posts[0][1]["Lambda-Runtime-Function-Error-Type"], "Function.ZeroDivisionError")
        self.assertIn("[ERROR] ZeroDivisionError: division by zero\nTraceback", stderr)

    def test_sys_exit_in_a_handler_is_an_error_and_not_the_end(self):
        posts, _, _, _ = self.run_function("import sys\ndef handler(e, c):\n e and sys.exit(3)\n return 1", [(b"1", {}), (b"0", {})])
        self.assertEqual(json.loads(posts[0][2])["errorType"], "Runtime.ExitError")
        self.assertEqual(posts[1][0], "invocation/id-1/response")

    def test_bad_payloads_and_results_are_errors_of_their_own(self):
        self.assertEqual(json.loads(self.one("def handler(e, c): pass", b"{")[2])["errorType"], "Runtime.UnmarshalError")
        for result in ("object()", "{1: {2, 3}}", "(b'x', 'bad\\ntype')"):
            report = json.loads(self.one(f"def handler(e, c): return {result}")[2])
            self.assertEqual(report["errorType"], "Runtime.MarshalError")

    def test_a_response_over_the_limit_becomes_an_error(self):
        posts, _, _, _ = self.run_function("def handler(e, c): return b'x' * e", [(b"101", {}), (b"100", {})], limit=100)
        self.assertEqual([p[0] for p in posts],
                         ["invocation/id-0/response", "invocation/id-0/error", "invocation/id-1/response"])
        self.assertEqual(json.loads(posts[1][2])["errorType"], "Function.ResponseSizeTooLarge")

    def test_prints_are_log_lines_at_once(self):
        _, stdout, _, _ = self.run_function("print('init')\ndef handler(e, c):\n print('hello', e)\n", [(b"1", {})])
        self.assertEqual(stdout, "init\nhello 1\n")

    def test_what_is_wrong_with_the_handlers_name_or_module_is_an_init_error(self):
        ok = "def handler(e, c): pass\nnumber = 5\n"
        for handler, expected in (("", "Runtime.MalformedHandlerName"), ("nodot", "Runtime.MalformedHandlerName"),
                                  ("missing.handler", "Runtime.ImportModuleError"),
                                  ("function.absent", "Runtime.HandlerNotFound"),
                                  ("function.number", "Runtime.HandlerNotFound")):
            report, header = self.init_error(ok, handler=handler)
            self.assertEqual((report["errorType"], header), (expected, expected))

    def test_a_syntax_error_names_file_and_line(self):
        report, _ = self.init_error("def handler(e, c):\n  return (\n")
        self.assertEqual(report["errorType"], "Runtime.UserCodeSyntaxError")
        self.assertIn("function.py", report["stackTrace"][0])
        self.assertIn("line 2", report["stackTrace"][0])

    def test_a_module_that_raises_or_exits_is_an_init_error_with_its_trace(self):
        report, header = self.init_error("value = {}['key']\ndef handler(e, c): pass\n")
        self.assertEqual((report["errorType"], header), ("KeyError", "Function.KeyError"))
        self.assertEqual(len(report["stackTrace"]), 1)
        self.assertIn("line 1", report["stackTrace"][0])
        self.assertEqual(self.init_error("import sys; sys.exit(0)")[0]["errorType"], "Runtime.ExitError")

    def test_handlers_in_packages_import_what_lies_beside_them(self):
        files = {"pkg/__init__.py": "", "pkg/mod.py": "import bootstrap\ndef h(e, c): return bootstrap.name\n",
                 "bootstrap.py": "name = 'own'\n"}
        for handler in ("pkg.mod.h", "pkg/mod.h"):
            self.assertEqual(json.loads(self.one("", handler=handler, files=files)[2]), "own")

    def test_hooks_run_around_a_snapshot_in_their_orders_and_see_the_environment(self):
        source = """
            import os
            from hearth_snapshot import after_restore, before_snapshot, register_after_restore
            from snapshot_restore_py import register_before_snapshot
            done = []
            @before_snapshot
            def first(): done.append("before 1")
            register_before_snapshot(done.append, "before 2")
            @after_restore
            def restored(): done.append("after 1 " + os.environ["SECRET"] + os.environ["OLD"])
            register_after_restore(lambda text, end: done.append(text + end), "after", end=" 2")
            def handler(event, context): return done + [os.environ["SECRET"]]
        """
        posts, stdout, stderr, _ = self.run_function(source, ["snapshot", (b"1", {})], environment={"OLD": "old"},
                                                     restored=b"SECRET=a=\xc3\xa9\n\0OLD=new\0")
        self.assertEqual(posts[0][0], "invocation/id-1/response", stderr)
        self.assertEqual(json.loads(posts[0][2]), ["before 2", "before 1", "after 1 a=é\nnew", "after 2", "a=é\n"])
        self.assertEqual(self.gets[:3], ["invocation/next", "restore/next", "invocation/next"])

    def test_a_function_without_hooks_is_snapshotted_too_and_more_than_once(self):
        source = "n = 0\ndef handler(e, c):\n global n\n n += 1\n return n"
        posts, _, _, _ = self.run_function(source, ["snapshot", (b"1", {}), "snapshot", "snapshot", (b"1", {})])
        self.assertEqual([json.loads(p[2]) for p in posts], [1, 2])

    def test_the_real_packages_registry_counts_when_the_function_brings_it(self):
        files = {"snapshot_restore_py/__init__.py": "hooks = []\ndef register_after_restore(f, *a, **k):\n hooks.append((f, a, k))\n"
                                                    "def get_after_restore(): return hooks\ndef get_before_snapshot(): return []\n"}
        source = """
            import snapshot_restore_py, hearth_snapshot
            done = []
            snapshot_restore_py.register_after_restore(done.append, "theirs")
            hearth_snapshot.register_after_restore(done.append, "ours")
            def handler(event, context): return done
        """
        posts, _, stderr, _ = self.run_function(source, ["snapshot", (b"1", {})], files=files)
        self.assertEqual(sorted(json.loads(posts[0][2])), ["ours", "theirs"], stderr)

    def test_a_hook_that_raises_is_reported_and_ends_the_runtime(self):
        for moment, path, expected in (("before_snapshot", "init/error", "Runtime.BeforeSnapshotError"),
                                       ("after_restore", "restore/error", "Runtime.AfterRestoreError")):
            for statement in ("raise KeyError('k')", "import sys; sys.exit(0)"):
                source = f"""
                    import hearth_snapshot
                    @hearth_snapshot.{moment}
                    def hook():
                        {statement}
                    def handler(event, context): pass
                """
                posts, _, stderr, status = self.run_function(source, ["snapshot", (b"1", {})])
                self.assertEqual(([p[0] for p in posts], status), ([path], 1))
                report = json.loads(posts[0][2])
                self.assertEqual(report["errorType"], expected)
                self.assertEqual(posts[0][1]["Lambda-Runtime-Function-Error-Type"], expected)
                self.assertIn(expected, stderr)
                self.assertEqual(len(report["stackTrace"]), 1)
                self.assertIn("in hook", report["stackTrace"][0])

    def test_generators_have_other_states_after_a_restore(self):
        # What a second instance of the same snapshot would draw is what is drawn from the state that was saved.
        source = """
            import random, tempfile, uuid
            from hearth_snapshot import after_restore, before_snapshot
            random.seed(1)
            names = tempfile._get_candidate_names()
            node = uuid.getnode()
            @before_snapshot
            def save():
                global saved
                saved = random.getstate(), names.rng.getstate()
            @after_restore
            def compare():
                global fresh
                fresh = [random.getstate() != saved[0], tempfile._get_candidate_names().rng.getstate() != saved[1],
                         uuid.getnode() != node, uuid.uuid1() != uuid.uuid1(), uuid.uuid1().version == 1]
            def handler(event, context): return fresh
        """
        posts, _, stderr, _ = self.run_function(source, ["snapshot", (b"1", {})])
        self.assertEqual(json.loads(posts[0][2]), [True] * 5, stderr)

    def test_openssl_reseeds_after_a_restore_and_its_threads_generators_follow(self):
        # EVP_RAND-CTR_DRBG(7): reseed_counter counts the seedings of a generator.
        counters = """
            import ctypes, os
            class Param(ctypes.Structure):
                _fields_ = [("key", ctypes.c_char_p), ("type", ctypes.c_uint), ("data", ctypes.c_void_p),
                            ("size", ctypes.c_size_t), ("returned", ctypes.c_size_t)]
            def counters(crypto):
                found = []
                for name in ("RAND_get0_primary", "RAND_get0_public"):
                    get = getattr(crypto, name)
                    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
                    crypto.EVP_RAND_CTX_get_params.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
                    value = ctypes.c_uint()
                    params = (Param * 2)(Param(b"reseed_counter", 2, ctypes.addressof(value), 4, 0))
                    assert crypto.EVP_RAND_CTX_get_params(get(None), params) == 1
                    found.append(value.value)
                return found
        """
        by_ssl = "import ssl\ncrypto = ctypes.CDLL('libcrypto.so.3')\ndraw = lambda: ssl.RAND_bytes(8)\n"
        by_ctypes = "crypto = ctypes.CDLL('libcrypto.so.3')\ndraw = lambda: crypto.RAND_bytes(ctypes.create_string_buffer(8), 8)\n"
        for load in (by_ssl, by_ctypes):
            source = "from counters import *\n" + load + textwrap.dedent("""
                from hearth_snapshot import after_restore, before_snapshot
                @before_snapshot
                def save():
                    global before
                    draw()
                    before = counters(crypto)
                @after_restore
                def compare():
                    global after
                    after = counters(crypto)
                    draw()
                    after += counters(crypto)
                def handler(event, context): return [before, after]
            """)
            posts, _, stderr, _ = self.run_function(source, ["snapshot", (b"1", {})], files={"counters.py": counters})
            self.assertEqual(posts[0][0], "invocation/id-1/response", stderr)
            (primary, public), after = json.loads(posts[0][2])
            self.assertEqual(after, [primary + 1, public, primary + 1, public + 1])

    def test_a_restore_imports_nothing_that_the_function_did_not(self):
        source = """
            import sys
            from hearth_snapshot import after_restore, before_snapshot
            @before_snapshot
            def save():
                global before
                before = set(sys.modules)
            def handler(event, context): return sorted(set(sys.modules) - before)
        """
        posts, _, stderr, _ = self.run_function(source, ["snapshot", (b"1", {})])
        self.assertEqual(json.loads(posts[0][2]), [], stderr)

    def test_start_up_imports_little(self):
        source = "import sys\ndef handler(e, c): return [m for m in e if m in sys.modules]"
        heavy = ["http.client", "email", "ssl", "socket", "traceback", "urllib", "inspect", "typing", "asyncio",
                 "hearth_restore", "hearth_snapshot"]
        self.assertEqual(json.loads(self.one(source, json.dumps(heavy).encode())[2]), [])


if __name__ == "__main__":
    unittest.main()
