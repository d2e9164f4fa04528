# SPDX-License-Identifier: Apache-2.0
"""Many at once, and kill -9 in the middle: nothing lost, mixed up, left behind or billed twice."""

import base64
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from harness import HERE, Hearth, await_true, check
from .registry import case

INVOKE = "hearth.v1.InvocationService/Invoke"
INSTANCES = 4


def invoke(hearth, number, sleep=0.0):
    """(number, Invocation and payload as dicts) or (number, the grpc.RpcError)."""
    payload = base64.b64encode(json.dumps({"number": number, "sleep": sleep}).encode()).decode()
    try:
        answer = hearth.api.call(INVOKE, {"name": "tenants/default/functions/echo", "payload": payload}, timeout=900)
    except grpc.RpcError as error:
        return number, error
    return number, (hearth.api.json(answer.invocation), answer.payload)


def answered(results):
    """Those that ended with an outcome, by their names."""
    return {result[0]["name"]: (number, *result) for number, result in results if not isinstance(result, grpc.RpcError)}


def check_not_mixed_up(results):
    for number, invocation, payload in answered(results).values():
        if invocation["outcome"] == "SUCCEEDED":
            got = json.loads(payload)["echo"]["number"]
            check(got == number, f"invocation {number} got the answer of {got}")


def check_ledger(hearth, results):
    """Every answered invocation is in it once, with the outcome that was answered."""
    records = hearth.ledger("echo")
    by_name = {record["name"]: record for record in records}
    check(len(by_name) == len(records), f"{len(records)} records of {len(by_name)} invocations")
    for name, (number, invocation, _) in answered(results).items():
        check(name in by_name, f"invocation {number} ({name}) is not in the ledger")
        check(by_name[name]["outcome"] == invocation["outcome"],
              f"{name}: {by_name[name]['outcome']} in the ledger, {invocation['outcome']} was answered")


def four_instances(world):
    """Room for exactly four instances of 128 MiB."""
    return Hearth(world.programs, memory_mib=INSTANCES * 128 + 64, extra=["--queue-wait=600"])


@case("load: 200 invocations over 4 instances, none lost or mixed up")
def load(world):
    with four_instances(world) as hearth:
        hearth.deploy("echo")
        hearth.api  # Made before threads share it.
        with ThreadPoolExecutor(200) as pool:
            results = list(pool.map(lambda number: invoke(hearth, number, 0.05), range(200)))
        errors = [str(result) for _, result in results if isinstance(result, grpc.RpcError)]
        check(not errors, f"{len(errors)} were not answered: {errors[:3]}")
        outcomes = {invocation["outcome"] for _, invocation, _ in answered(results).values()}
        check(outcomes == {"SUCCEEDED"}, f"outcomes {outcomes}")
        check(len(answered(results)) == 200, "each has a name of its own")
        check_not_mixed_up(results)
        instances = {invocation["instance"] for _, invocation, _ in answered(results).values()}
        check(len(instances) == INSTANCES, f"{len(instances)} instances served")
        check_ledger(hearth, results)
        check(len(hearth.ledger("echo")) == 200, "and nothing else is in it")
        usage = hearth.json("usage", "echo")["total"]["billed"]
        check(int(usage["invocations"]) == 200, f"billed {usage}")


class Under:
    """40 invocations under way, of which 4 run at any time; `results` when they have ended."""

    def __init__(self, hearth, count=40):
        self.hearth, self.results = hearth, []
        hearth.api
        self._threads = [threading.Thread(target=self._one, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()
        await_true(lambda: len(self.results) >= 5, "some are answered", 300)

    def _one(self, number):
        self.results.append(invoke(self.hearth, number, 0.5))

    def join(self):
        for thread in self._threads:
            thread.join(900)
        check(not any(thread.is_alive() for thread in self._threads), "every client was told")
        return self.results


@case("kill -9 of a VMM: its client is told, the others are served, nothing is left behind")
def kill_vmm(world):
    with four_instances(world) as hearth:
        hearth.deploy("echo")
        under = Under(hearth)
        busy = [i for i in hearth.json("list", "instances")["instances"] if i["state"] == "BUSY"]
        check(busy, "some are busy")
        os.kill(hearth.vmms()[0], signal.SIGKILL)
        results = under.join()
        lost = [r for _, r in results if isinstance(r, grpc.RpcError) or r[0]["outcome"] != "SUCCEEDED"]
        check(len(lost) <= 1, f"one VMM took {len(lost)} invocations: {lost}")
        for result in lost:
            if isinstance(result, grpc.RpcError):  # Its instance was still being made, so it did not run.
                check(result.code() == grpc.StatusCode.UNAVAILABLE, str(result))
            else:
                check(result[0]["outcome"] == "INSTANCE_LOST", str(result))
        check_not_mixed_up(results)
        check_ledger(hearth, results)
        check(hearth.invoke("echo")["invocation"]["outcome"] == "SUCCEEDED", "it goes on")


@case("kill -9 of hearthd: no VMM stays, clients are told, and what was answered is in the ledger once")
def kill_hearthd(world):
    with four_instances(world) as hearth:
        hearth.deploy("echo")
        under = Under(hearth)
        hearth.hearthd.end(signal.SIGKILL)
        results = under.join()
        told = [r for _, r in results if isinstance(r, grpc.RpcError)]
        check(told and all(error.code() == grpc.StatusCode.UNAVAILABLE for error in told), f"clients were told: {told[:2]}")
        hearth.check_nothing_left()
        hearth.forget_api()
        hearth.start_hearthd()
        check_not_mixed_up(results)
        check_ledger(hearth, results)
        temporary = [name for name in hearth.data_files() if any(part in name for part in ("tmp", "partial", "staging"))]
        check(not temporary, f"left behind: {temporary}")
        check(hearth.json("list", "instances")["instances"] == [], "no instance is listed")
        check(hearth.invoke("echo")["invocation"]["outcome"] == "SUCCEEDED", "the function is still there")


@case("kill -9 of hearthd in a deployment: the operation has failed, and can be made again")
def kill_hearthd_deploying(world):
    with Hearth(world.programs) as hearth:
        ended = {}
        thread = threading.Thread(target=lambda: ended.update(result=hearth.cli("deploy", HERE / "functions/echo")))
        thread.start()
        await_true(lambda: hearth.vmms(), "a machine boots", 120)
        hearth.hearthd.end(signal.SIGKILL)
        thread.join()
        check(ended["result"][0] == 3, f"the client was told: {ended['result']}")
        hearth.check_nothing_left()
        hearth.start_hearthd()
        versions = hearth.json("list", "versions", "echo")["versions"]
        check([version["state"] for version in versions] == ["FAILED"], str(versions))
        hearth.deploy("echo")
        check(hearth.invoke("echo")["invocation"]["outcome"] == "SUCCEEDED", "the next deployment serves")


@case("kill -9 of the launcher: no machine stays, clients are told, a new one is used")
def kill_launcher(world):
    with four_instances(world) as hearth:
        hearth.deploy("echo")
        under = Under(hearth)
        old = hearth.vmms()
        hearth.launcher.end(signal.SIGKILL)
        gone = lambda: not set(old) & set(hearth.vmms())
        if hearth.machines.ends_with_launcher:
            await_true(gone, "its machines gone")
        hearth.start_launcher()
        await_true(gone, "its machines gone")
        results = under.join()
        check(hearth.hearthd.process.poll() is None, "hearthd still runs")
        check_not_mixed_up(results)
        check_ledger(hearth, results)
        bad = [r for _, r in results if not isinstance(r, grpc.RpcError) and r[0]["outcome"] not in ("SUCCEEDED", "INSTANCE_LOST")]
        check(not bad, f"outcomes {bad[:2]}")
        check(hearth.invoke("echo")["invocation"]["outcome"] == "SUCCEEDED", "it goes on")


@case("SIGTERM of hearthd in the middle: what runs is answered, and it ends in order")
def sigterm(world):
    with four_instances(world) as hearth:
        hearth.deploy("echo")
        under = Under(hearth, count=12)
        code = hearth.hearthd.end(signal.SIGTERM)
        check(code == 0, f"hearthd ended with {code}: {hearth.hearthd.tail()}")
        results = under.join()
        hearth.check_nothing_left()
        hearth.forget_api()
        hearth.start_hearthd()
        check_not_mixed_up(results)
        check_ledger(hearth, results)
