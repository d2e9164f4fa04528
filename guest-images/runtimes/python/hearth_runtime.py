# SPDX-License-Identifier: Apache-2.0
"""Runs a handler `module.function(event, context)` on the Lambda Runtime API.

`event` is the parsed payload when its content type is JSON, else the payload's bytes. What the
handler returns becomes the response:

    bytes, bytearray or memoryview      as it is, application/octet-stream
    (bytes, "image/png")                as it is, of that content type
    anything else                       as JSON

Only what every invocation needs is imported here: an import is most of a cold start, so the HTTP client
is a few lines on the socket type itself, and traceback is loaded when something failed.
"""

import _socket
import json
import os
import sys
import time

_BASE = "/2018-06-01/runtime/"
_MAX_HEAD_BYTES = 64 * 1024
_PEEK_BYTES = 4096
# So much of a payload lies in the kernel at most: the same few pages for all of it, where each new page is
# one that a restored instance has to be given.
_RECEIVE_BYTES = 64 * 1024


class ApiError(Exception):
    """The Runtime API is gone or talks no HTTP; there is no one left to tell."""


class UserError(Exception):
    """What is wrong with the function, as the Runtime API is told."""

    def __init__(self, error_type, message, trace=()):
        super().__init__(message)
        self.report = {"errorType": error_type, "errorMessage": message, "stackTrace": list(trace)}


class Api:
    """The Runtime API over one connection that is kept."""

    def __init__(self, address):
        self._address = address
        self._socket = None

    def next(self):
        """The next invocation: (lower-case headers, payload). None: a snapshot is to be taken."""
        status, headers, body = self._exchange("GET", "invocation/next", None, b"")
        if status == 204:
            return None
        if status != 200:
            raise ApiError(f"invocation/next answered {status}")
        return headers, body

    def restore_next(self):
        """Waits until the instance was restored from its snapshot; its environment."""
        status, _, body = self._exchange("GET", "restore/next", None, b"")
        if status != 200:
            raise ApiError(f"restore/next answered {status}")
        return body

    def respond(self, request_id, body, content_type):
        """Sends a response; the status of the answer."""
        return self._exchange("POST", f"invocation/{request_id}/response", content_type, body)[0]

    def fail(self, path, report):
        """Reports an error to `path`, init/error or invocation/ID/error."""
        # A lone surrogate, as from a file name, is no UTF-8.
        body = json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")
        header = f"application/json\r\nLambda-Runtime-Function-Error-Type: {_header_type(report)}"
        self._exchange("POST", path, header, body)

    def _exchange(self, method, path, content_type, body):
        if self._socket is None:
            host, _, port = self._address.rpartition(":")
            self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BYTES)
            self._socket.connect((host, int(port)))
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        # The last header says that hooks run here: see docs/snapshot-hooks.md.
        head = f"{method} {_BASE}{path} HTTP/1.1\r\nHost: {self._address}\r\nHearth-Runtime-Snapshot: 1\r\n"
        if content_type is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        self._socket.sendall(head.encode("latin-1") + b"\r\n")
        if body:
            self._socket.sendall(body)
        return self._answer()

    def _answer(self):
        head = self._head()
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        try:
            status = int(lines[0].split(" ", 2)[1])
            length = int(headers.get("content-length", "0"))
        except (IndexError, ValueError):
            raise ApiError(f"the Runtime API answered {lines[0]!r}") from None
        body = b""
        while len(body) < length:
            # The kernel puts all of it into the place where it stays, unless a signal comes between.
            piece = self._socket.recv(length - len(body), _socket.MSG_WAITALL)
            if not piece:
                raise ApiError("the Runtime API closed the connection")
            body = body + piece if body else piece
        if headers.get("connection", "").lower() == "close":
            self._socket.close()
            self._socket = None
        return status, headers, body

    def _head(self):
        """Takes the head of an answer off the connection, and nothing of the body."""
        head = b""
        while len(head) <= _MAX_HEAD_BYTES:
            seen = head + self._socket.recv(_PEEK_BYTES, _socket.MSG_PEEK)
            if len(seen) == len(head):
                raise ApiError("the Runtime API closed the connection")
            end = seen.find(b"\r\n\r\n")
            head += self._socket.recv((len(seen) if end < 0 else end + 4) - len(head))
            if end >= 0:
                return head[:end]
        raise ApiError("the Runtime API's answer has no end of its headers")


def _header_type(report):
    """The category in the header: Runtime.X as it is, an exception's name as Function.X."""
    name = "".join(c if " " < c < "\x7f" else "?" for c in report["errorType"])
    return name if name.startswith(("Runtime.", "Function.")) else f"Function.{name}"


class Context:
    """The second argument of a handler, as on Lambda."""

    identity = None

    def __init__(self, headers):
        environment = os.environ
        self.aws_request_id = headers.get("lambda-runtime-aws-request-id", "")
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn", "")
        self.content_type = headers.get("content-type", "")
        self.function_name = environment.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self.function_version = environment.get("AWS_LAMBDA_FUNCTION_VERSION", "")
        self.memory_limit_in_mb = environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
        self.log_group_name = environment.get("AWS_LAMBDA_LOG_GROUP_NAME", "")
        self.log_stream_name = environment.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms") or 0)
        client_context = headers.get("lambda-runtime-client-context")
        self.client_context = json.loads(client_context) if client_context else None

    def get_remaining_time_in_millis(self):
        """Milliseconds until the invocation is killed, not below 0."""
        return max(self._deadline_ms - int(time.time() * 1000), 0)


def _text(convert, value):
    """What str or repr makes of a value of the function's; its class may define them, and wrongly."""
    try:
        return convert(value)
    except BaseException:
        return f"<{type(value).__name__} that has no text>"


def load_handler(name):
    """The function that `name`, "module.function" or "package/module.function", means."""
    module_name, dot, function_name = name.rpartition(".")
    if not dot or not module_name or not function_name:
        raise UserError("Runtime.MalformedHandlerName", f"the handler {name!r} is not of the form module.function")
    module_name = module_name.replace("/", ".")
    import importlib

    try:
        module = importlib.import_module(module_name)
    except SyntaxError as error:
        trace = f'  File "{error.filename}", line {error.lineno}\n    {(error.text or "").strip()}'
        raise UserError("Runtime.UserCodeSyntaxError", f"syntax error in module {module_name!r}: {error.msg}",
                        [trace]) from None
    except ImportError as error:
        raise UserError("Runtime.ImportModuleError", f"cannot import module {module_name!r}: {_text(str, error)}",
                        _trace(error)) from None
    except SystemExit as error:
        raise UserError("Runtime.ExitError", f"module {module_name!r} called sys.exit({_text(repr, error.code)})",
                        _trace(error)) from None
    except BaseException as error:
        raise UserError(type(error).__name__, _text(str, error), _trace(error)) from None
    handler = getattr(module, function_name, None)
    if handler is None:
        raise UserError("Runtime.HandlerNotFound", f"module {module_name!r} has no {function_name!r}")
    if not callable(handler):
        raise UserError("Runtime.HandlerNotFound", f"{name!r} is a {type(handler).__name__}, not a function")
    return handler


def _trace(error):
    """The frames of `error`, without those of this file and of the import machinery."""
    import traceback

    own = (__file__, os.path.join(os.path.dirname(__file__), "hearth_restore.py"), "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if f.filename not in own and not f.filename.endswith("/importlib/__init__.py")]
    return [line.rstrip("\n") for line in traceback.format_list(frames)]


def is_json(content_type):
    """Whether a payload of this content type is JSON; an unnamed one is, as on Lambda."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("", "application/json", "text/json") or kind.endswith("+json")


def make_event(payload, content_type):
    """What a handler gets as its event."""
    if not is_json(content_type):
        return bytes(payload)
    if not payload:
        return None
    try:
        return json.loads(payload)
    except ValueError as error:
        raise UserError("Runtime.UnmarshalError", f"the payload is not the JSON that its content type says: {error}") from None


def _octets(value):
    """Its bytes: a memoryview's items may be larger, and need not lie side by side."""
    return value.tobytes() if isinstance(value, memoryview) else value


def make_response(result):
    """The body and content type of what a handler returned."""
    if isinstance(result, (bytes, bytearray, memoryview)):
        return _octets(result), "application/octet-stream"
    if (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], (bytes, bytearray, memoryview))
            and isinstance(result[1], str)):
        if not (result[1].isascii() and result[1].isprintable()):
            raise UserError("Runtime.MarshalError", f"{result[1]!r} is no content type")
        return _octets(result[0]), result[1]
    try:
        text = json.dumps(result, ensure_ascii=False)
        try:
            return text.encode(), "application/json"
        except UnicodeEncodeError:
            # A lone surrogate can be sent as an escape only.
            return json.dumps(result).encode(), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError("Runtime.MarshalError", f"the handler's result cannot be sent as JSON: {error}") from None


def run(handler, headers, payload):
    """One invocation: the body and content type of its response, or UserError."""
    try:
        event = make_event(payload, headers.get("content-type", ""))
        return make_response(handler(event, Context(headers)))
    except UserError:
        raise
    except SystemExit as error:
        raise UserError("Runtime.ExitError", f"the handler called sys.exit({_text(repr, error.code)})",
                        _trace(error)) from None
    except BaseException as error:
        raise UserError(type(error).__name__, _text(str, error), _trace(error)) from None


def _log(report):
    lines = [f"[ERROR] {report['errorType']}: {report['errorMessage']}"]
    if report["stackTrace"]:
        lines += ["Traceback (most recent call last):", *report["stackTrace"]]
    print("\n".join(lines), file=sys.stderr, flush=True)


def snapshot(api):
    """From before the snapshot to after the restore. An error of a hook is the end of the runtime."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, own)
    try:
        import hearth_restore
    finally:
        sys.path.remove(own)
    _hooks(api, "init/error", "Runtime.BeforeSnapshotError", hearth_restore.run_before_snapshot)
    environment = api.restore_next()
    _hooks(api, "restore/error", "Runtime.AfterRestoreError", hearth_restore.run_after_restore, environment)


def _hooks(api, path, error_type, run_hooks, *args):
    try:
        run_hooks(*args)
    except BaseException as error:
        report = UserError(error_type, f"{type(error).__name__}: {_text(str, error)}", _trace(error)).report
        _log(report)
        sys.stdout.flush()
        api.fail(path, report)
        sys.exit(1)


def serve(api, handler):
    """Invocations, for ever."""
    while True:
        invocation = api.next()
        if invocation is None:
            snapshot(api)
            continue
        headers, payload = invocation
        request_id = headers.get("lambda-runtime-aws-request-id", "")
        trace_id = headers.get("lambda-runtime-trace-id")
        if trace_id:
            os.environ["_X_AMZN_TRACE_ID"] = trace_id
        else:
            os.environ.pop("_X_AMZN_TRACE_ID", None)
        try:
            body, content_type = run(handler, headers, payload)
            payload = None
            sys.stdout.flush()
            if api.respond(request_id, body, content_type) == 413:
                raise UserError("Function.ResponseSizeTooLarge",
                                f"the response of {len(body)} bytes is over the limit")
        except UserError as error:
            _log(error.report)
            sys.stdout.flush()
            api.fail(f"invocation/{request_id}/error", error.report)


def main():
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API")
    if not address:
        sys.exit("AWS_LAMBDA_RUNTIME_API is not set: this program runs in a Hearth instance")
    # The function's code comes before all else, and this folder is not the user's.
    task_root = os.environ.get("LAMBDA_TASK_ROOT", "/var/task")
    own = os.path.dirname(os.path.abspath(__file__))
    # What it may import of ours comes last.
    sys.path[:] = [task_root] + [p for p in sys.path if p != own] + [os.path.join(own, "python")]
    # Lines become log lines as they are printed, although stdout is a pipe.
    sys.stdout.reconfigure(line_buffering=True)
    api = Api(address)
    try:
        try:
            handler = load_handler(os.environ.get("_HANDLER", ""))
        except UserError as error:
            _log(error.report)
            api.fail("init/error", error.report)
            sys.exit(1)
        serve(api, handler)
    except (ApiError, OSError) as error:
        sys.exit(f"hearth_runtime: {error}")
