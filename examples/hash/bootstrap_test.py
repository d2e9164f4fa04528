# SPDX-License-Identifier: Apache-2.0
"""Runs bootstrap against a Runtime API of a few lines. ctest calls it as examples_hash_bootstrap."""

import hashlib
import http.server
import json
import os
import queue
import subprocess
import sys
import threading
import unittest

BOOTSTRAP = sys.argv.pop(1)
PAYLOADS = [b"", b"abc", os.urandom(6_000_000)]


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        assert self.path == "/2018-06-01/runtime/invocation/next", self.path
        number = self.server.served
        self.server.served += 1
        if number == len(PAYLOADS):
            # Nothing more to do: the function must end when its API goes away.
            self.close_connection = True
            return
        self.answer(200, PAYLOADS[number], Lambda_Runtime_Aws_Request_Id=f"id-{number}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.results.put((self.path, self.headers["Content-Type"], json.loads(body)))
        self.answer(202, b'{"status":"OK"}')

    def log_message(self, *_):
        pass


class Bootstrap(unittest.TestCase):
    def test_payloads_up_to_6_mb_are_hashed_in_turn(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        server.served, server.results = 0, queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}"}
        process = subprocess.run([BOOTSTRAP], env=environment, timeout=60, capture_output=True)
        server.shutdown()
        server.server_close()
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"closed the connection", process.stderr)
        for number, payload in enumerate(PAYLOADS):
            expected = {"sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)}
            self.assertEqual(server.results.get_nowait(),
                             (f"/2018-06-01/runtime/invocation/id-{number}/response", "application/json", expected))

    def test_without_a_runtime_api_it_says_what_is_missing(self):
        process = subprocess.run([BOOTSTRAP], env={}, timeout=60, capture_output=True)
        self.assertEqual(process.returncode, 2)
        self.assertIn(b"AWS_LAMBDA_RUNTIME_API", process.stderr)


if __name__ == "__main__":
    unittest.main()
