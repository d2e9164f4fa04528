# SPDX-License-Identifier: Apache-2.0
"""What functions do wrong: each gets its outcome, and the next invocation works."""

import base64
import json
import signal
import tempfile
import threading
from pathlib import Path

from harness import HERE, await_true, check, check_in
from .registry import case, cases

FUNCTION_ERROR, TIMED_OUT, OUT_OF_MEMORY = 10, 11, 12

# What it does; the CLI's exit codes that are right; words of the error.
MISBEHAVIOUR = [
    ("throw", [FUNCTION_ERROR], ["ValueError", "as asked: ä", "app.py"]),
    ("leave", [FUNCTION_ERROR], ["exit", "3"]),
    ("raise_exit", [FUNCTION_ERROR], ["exit"]),
    ("be_killed", [FUNCTION_ERROR], ["9"]),
    ("never_answer", [TIMED_OUT], []),
    ("spin", [TIMED_OUT], []),
    ("answer_much", [FUNCTION_ERROR], ["large"]),
    ("not_json", [FUNCTION_ERROR], ["json"]),
    ("fill_memory", [OUT_OF_MEMORY], []),
    # Its disk is memory: either may be what gives out first.
    ("fill_disk", [FUNCTION_ERROR, OUT_OF_MEMORY], []),
    # The limit on processes stops it; what its copies then answer, or do not, is its own affair.
    ("fork_without_end", [FUNCTION_ERROR, TIMED_OUT, OUT_OF_MEMORY], []),
    ("close_everything", [FUNCTION_ERROR], []),
]


def works(hearth, name="misbehave", payload=b'{"do": "nothing"}'):
    answer = hearth.invoke(name, payload)
    check(answer["invocation"]["outcome"] == "SUCCEEDED", str(answer))
    return answer


@cases("function: {} gets its outcome, and the next invocation works", MISBEHAVIOUR)
def misbehave(world, what, codes, words):
    hearth = world.function("misbehave")
    code, out, err = hearth.cli("--json", "invoke", "misbehave", "--data", json.dumps({"do": what}))
    check(code in codes, f"ended with {code}: {out.decode(errors='replace')} {err}")
    invocation = json.loads(out)["invocation"]
    for word in words:
        check_in(word, json.dumps(invocation["error"], ensure_ascii=False))
    check(int(invocation["usage"]["host"]["wallNs"]) > 0, "it is billed like any other")
    works(hearth)


@case("function: an error is shown with its stack trace, in plain words")
def trace(world):
    code, out, err = world.function("misbehave").cli("invoke", "misbehave", "--data", '{"do": "throw"}')
    check(code == FUNCTION_ERROR and out == b"", f"{code}: {out}")
    for words in ("failed by its own fault", "ValueError: as asked", "app.py", "hearth logs misbehave --invocation"):
        check_in(words, err)


@case("function: leave_a_child answers at once, whatever holds its stdout")
def leave_a_child(world):
    hearth = world.function("misbehave")
    hearth.invoke("misbehave", b'{"do": "leave_a_child"}')
    works(hearth)


@case("function: a stdio function that leaves a child behind ends with its own process")
def stdio_child(world):
    hearth = world.shared
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "code").write_text("x\n")
        hearth.deploy("child", "--runtime", "base", "--timeout", "20", "--command", "sleep 100000 & echo done", folder=folder)
    for _ in range(2):
        code, out, err = hearth.cli("invoke", "child", "--data", "x")
        check(code == 0 and out == b"done\n", f"{code}: {out} {err}")


@case("function: a flood of output is cut, and costs others nothing")
def flood(world):
    hearth = world.function("misbehave")
    hearth.invoke("misbehave", b'{"do": "flood_output"}')
    works(hearth)
    code, out, err = hearth.cli("logs", "misbehave", "--tail", "50")
    check(code == 0, err)


# The folder; words of what the deployment says.
INIT_FAILURES = [
    ("init-syntax", ["SyntaxError"]),
    ("init-throws", ["RuntimeError", "the configuration is missing"]),
    ("init-exits", ["exit", "9"]),
    ("init-never", ["init"]),
    ("no-function", ["handler"]),
]


@cases("deploy: {} fails, says why, and leaves no instance", INIT_FAILURES)
def init_failure(world, name, words):
    hearth = world.shared
    code, out, err = hearth.cli("deploy", HERE / "functions" / name)
    check(code == 1 and out == b"", f"ended with {code}: {out} {err}")
    for word in words:
        check_in(word, err)
    check_in("FUNCTION_INIT_FAILED", err)
    instances = hearth.json("list", "instances", name)["instances"]
    check(instances == [], f"instances: {instances}")
    code, out, err = hearth.cli("invoke", name)
    check(code == 1, f"invoking it ended with {code}: {err}")
    check_in("NO_LIVE_VERSION", err)


@case("deploy: a handler that is not given, or names no module, is told")
def no_handler(world):
    hearth = world.shared
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text("def handler(event, context): return 1\n")
        code, out, err = hearth.cli("deploy", folder, "--name", "no-handler", "--runtime", "python3.11")
        check(code == 1, f"{code}: {err}")
        check_in("handler", err)
        code, out, err = hearth.cli("deploy", folder, "--name", "no-handler", "--runtime", "python3.11", "--handler", "nope.x")
        check(code == 1, f"{code}: {err}")
        check_in("nope", err)


@case("deploy: two deployments of one name at once give two versions, the later one live")
def two_deploys(world):
    hearth, results = world.shared, {}

    def deploy(number):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "app.py").write_text(f"def handler(event, context): return {number}\n")
            results[number] = hearth.cli("--json", "deploy", folder, "--name", "twice", "--runtime", "python3.11",
                                         "--handler", "app.handler", "--init-timeout", "60")
    threads = [threading.Thread(target=deploy, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = {}
    for number, (code, out, err) in results.items():
        check(code == 0, f"{code}: {out.decode(errors='replace')} {err}")
        versions[json.loads(out)["version"]["name"].rsplit("/", 1)[-1]] = number
    check(sorted(versions) == ["1", "2"], f"versions {versions}")
    check(hearth.invoke("twice")["payload"] == versions["2"], "the higher version is live")
    check(hearth.invoke("twice:1")["payload"] == versions["1"], "the other can be named")


def cancel_call(hearth, payload):
    call = hearth.api.call("hearth.v1.InvocationService/InvokeStream", iter([
        {"start": {"name": "tenants/default/functions/echo", "payload": base64.b64encode(payload).decode()}}]))
    return call.cancel


def interrupt_cli(hearth, payload):
    cli = hearth.start_cli("invoke", "echo", "--data", payload.decode())

    def interrupt():
        cli.send_signal(signal.SIGINT)
        out, err = cli.communicate(timeout=30)
        check(cli.returncode == 130 and out == b"", f"hearth ended with {cli.returncode}: {err}")
    return interrupt


@cases("invoke: {} ends its invocation, and the function works on", [
    ("a client that leaves mid-way", cancel_call),
    ("Ctrl-C of the CLI", interrupt_cli),
])
def client_leaves(world, _, start):
    hearth = world.function("echo")
    before = {record["name"] for record in hearth.ledger("echo")}

    def busy():
        return [i["name"] for i in hearth.json("list", "instances", "echo")["instances"] if i["state"] == "BUSY"]

    leave = start(hearth, b'{"sleep": 100}')
    await_true(lambda: len(busy()) == 1, "it runs")
    instance, = busy()
    works(hearth, "echo")  # Beside it, in an instance of its own.
    leave()
    # It would have run for longer than this waits.
    await_true(lambda: instance not in busy(), "its instance has ended, or is free")

    def cancelled():
        return [record for record in hearth.ledger("echo")
                if record["name"] not in before and record.get("error", {}).get("type") == "Sandbox.Cancelled"]
    await_true(cancelled, "it is in the ledger")
    record, = cancelled()
    check(record["outcome"] == "FUNCTION_ERROR", f"it was ended as a function is: {record}")
    check(record["instance"] == instance, f"it ran in {instance}: {record}")
    check(int(record["usage"]["billed"]["durationMs"]) < 100_000, f"it is billed for as long as it ran: {record}")
    works(hearth, "echo")
