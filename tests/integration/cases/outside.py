# SPDX-License-Identifier: Apache-2.0
"""The ways in for others' benchmark suites: invitro's gRPC contract, and STeLLAR's bursts."""

import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness import HERE, Hearth, Skipped, check, check_in
from .registry import case

TRACE_FUNCTION = HERE.parent.parent / "examples/trace-function"
EXECUTE = "/faas.Executor/Execute"


def messages():
    """(FaasRequest, FaasReply), written down from the public contract and not from our own .proto."""
    file = descriptor_pb2.FileDescriptorProto(name="outside/faas.proto", package="faas", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, numbers in (("FaasRequest", ("runtimeInMilliSec", "memoryInMebiBytes")),
                          ("FaasReply", ("durationInMicroSec", "memoryUsageInKb"))):
        message = file.message_type.add(name=name)
        message.field.add(name="message", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        for number, field in enumerate(numbers, 2):
            message.field.add(name=field, number=number, type=kinds.TYPE_UINT32, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = message_factory.MessageFactory(pool)
    return tuple(classes.GetPrototype(pool.FindMessageTypeByName(f"faas.{name}")) for name in ("FaasRequest", "FaasReply"))


def bench_of(world):
    bench = world.build / "bench/hearth-bench"
    if not bench.exists():
        raise Skipped(f"{bench} is not built")
    return bench


class Bridge:
    """hearth-bench invitro in front of a function, as a load generator sees it."""

    def __init__(self, bench, hearth, function):
        self.process = subprocess.Popen([str(bench), "invitro", "--socket", str(hearth.socket), "--function", function],
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        check_in("listening on 127.0.0.1:", line)
        self.channel = grpc.insecure_channel(line.split()[-1])
        self.request, reply = messages()
        self.call = self.channel.unary_unary(EXECUTE, self.request.SerializeToString, reply.FromString)

    def execute(self, runtime_ms, memory_mib, timeout=600):
        return self.call(self.request(runtimeInMilliSec=runtime_ms, memoryInMebiBytes=memory_mib), timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(60) == 0, f"hearth-bench invitro ended with {self.process.returncode}")


@case("outside: invitro's Execute keeps a function busy and uses memory as asked, eight at once")
def invitro(world):
    bench = bench_of(world)
    world.shared.deploy("trace-function", folder=TRACE_FUNCTION)
    with Bridge(bench, world.shared, "trace-function") as bridge, ThreadPoolExecutor(8) as pool:
        reply = bridge.execute(50, 64)
        check(reply.durationInMicroSec >= 50_000, str(reply))
        check(60 * 1024 <= reply.memoryUsageInKb <= 80 * 1024, str(reply))
        replies = list(pool.map(lambda runtime: bridge.execute(runtime, 0), range(10, 90, 10)))
        for runtime, reply in zip(range(10, 90, 10), replies):
            check(reply.durationInMicroSec >= runtime * 1000, f"{runtime} ms: {reply}")
        starts = [reply.message.split()[0] for reply in replies]
        check(set(starts) <= {"COLD", "RESTORED", "WARM"}, str(starts))
        names = {reply.message.split()[1] for reply in replies}
    check(names <= {record["name"] for record in world.shared.ledger("trace-function")}, "the replies' invocations are in the ledger")


@case("outside: what goes wrong behind invitro's Execute has a gRPC status that tells it")
def invitro_errors(world):
    bench = bench_of(world)
    hearth = world.function("echo")
    world.shared.deploy("trace-function", folder=TRACE_FUNCTION)
    for function, runtime, memory, code, text in (
            ("trace-function", 0, 245, grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY"),
            ("trace-function", 0, 4000, grpc.StatusCode.UNKNOWN, "MemoryError"),
            ("echo", 1, 1, grpc.StatusCode.INTERNAL, "durationInMicroSec"),
            ("nobody", 1, 1, grpc.StatusCode.NOT_FOUND, "hearthd: ")):
        with Bridge(bench, hearth, function) as bridge:
            try:
                reply = bridge.execute(runtime, memory)
                check(False, f"{function} answered {reply}")
            except grpc.RpcError as error:
                check(error.code() == code, f"{function}: {error.code()} {error.details()}")
                check_in(text, error.details())


@case("outside: bursts, with their starts counted and raw samples kept")
def bursts(world):
    bench = bench_of(world)
    with Hearth(world.programs, memory_mib=3 * 256 + 128, extra=["--queue-wait=600"]) as hearth:
        hearth.deploy("trace-function", folder=TRACE_FUNCTION)
        payload = Path(hearth.folder) / "payload"
        payload.write_text('{"runtimeInMilliSec": 20}')
        done = subprocess.run([str(bench), "burst", "--socket", str(hearth.socket), "--function", "trace-function",
                               "--size", "3", "--interval", "3", "--bursts", "3", "--payload", str(payload), "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)
        check(done.returncode == 0, f"burst ended with {done.returncode}: {done.stderr.decode()}")
        result = json.loads(done.stdout)
        summary = result["summary"]
        check(summary["failures"] == 0, str(summary))
        check(sum(summary["starts"].values()) == 9 == summary["replyMs"]["count"], str(summary))
        first, last = result["bursts"][0]["summary"]["starts"], result["bursts"][2]["summary"]["starts"]
        check(first["COLD"] + first["RESTORED"] >= 1, f"the first burst's starts: {first}")
        check(last["WARM"] >= 1, f"the last burst's starts: {last}")
        names = {sample["invocation"] for burst in result["bursts"] for sample in burst["samples"]}
        check(names == {record["name"] for record in hearth.ledger("trace-function")}, "the samples are the ledger's invocations")
        return [f"starts {summary['starts']}, reply p50 {summary['replyMs']['p50']:.0f} ms, max {summary['replyMs']['max']:.0f} ms"]


@case("outside: bench refuses what it cannot do, by name")
def refusals(world):
    bench = bench_of(world)
    for arguments, text in ((("burst", "--function", "f", "--size", "0"), "--size is 0"),
                            (("invitro", "--function", "f", "--listen", "0.0.0.0:80"), "only loopback"),
                            (("burst", "--function", "f", "--socket", "/nowhere/hearthd.sock"), "listing instances")):
        done = subprocess.run([str(bench), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        check(done.returncode == 1, f"{arguments} ended with {done.returncode}")
        check_in(text, done.stderr.decode())
