# SPDX-License-Identifier: Apache-2.0
"""What clients ask for that cannot be."""

import json

import grpc

from harness import HERE, check, check_in
from .registry import case, cases

MAX_PAYLOAD = 6_291_456
MAX_RESPONSE = MAX_PAYLOAD + 100
ECHO = HERE / "functions/echo"


def refused(hearth, method, request, code, reason=None):
    """The details of the error that the call must end with."""
    try:
        answer = hearth.api.call(method, request)
        if not isinstance(request, dict) and hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        check(error.code() == code, f"{error.code()} instead of {code}: {error.details()}")
        details = hearth.api.details(error)
        check("ErrorInfo" in details and details["ErrorInfo"]["domain"] == "hearth.dev", f"an ErrorInfo in {details}")
        check(reason in (None, details["ErrorInfo"]["reason"]), f"{reason} in {details}")
        return details
    check(False, f"{method} was not refused")


@cases("memory: {}", [
    ("0 is refused by the CLI", "0", 2, ["memoryMib"]),
    ("odd is refused, and the field named", "129", 1, ["memory_mib", "odd"]),
    ("too little is refused", "64", 1, ["memory_mib", "128"]),
    ("above the limit is refused", "20480", 1, ["memory_mib", "10240"]),
    ("more than the host has is refused", "10240", None, ["memory"]),
])
def memory(world, _, amount, code, words):
    ended, out, err = world.shared.cli("deploy", ECHO, "--name", "memory", "--memory", amount)
    check(ended != 0 and (code is None or ended == code), f"ended with {ended}: {out} {err}")
    for word in words:
        check_in(word, err)


@case("memory: the API names the field of an odd amount")
def memory_api(world):
    details = refused(world.shared, "hearth.v1.FunctionService/CreateVersion", {
        "parent": "tenants/default/functions/memory",
        "version": {"spec": {"runtime": "python3.11", "artifact": "tenants/default/artifacts/sha256-" + "0" * 64,
                             "interface": {"runtimeApi": {"handler": "app.handler"}}, "memoryMib": 129}}},
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    fields = [violation["field"] for violation in details["BadRequest"]["fieldViolations"]]
    check(any("memory_mib" in field for field in fields), f"memory_mib in {fields}")


@case("payload: 6 MiB pass both ways, one byte more is refused before anything starts")
def payload(world):
    hearth = world.function("echo")
    answer = hearth.invoke("echo", b"\x01" * MAX_PAYLOAD, content_type="application/octet-stream")
    check(answer["payload"]["bytes"] == MAX_PAYLOAD, str(answer["payload"]))
    answer = hearth.invoke("echo", json.dumps({"answer_bytes": MAX_RESPONSE}).encode())
    check(answer["payloadBytes"] == MAX_RESPONSE, f"{answer['payloadBytes']} bytes came back")
    before = len(hearth.ledger("echo"))
    code, out, err = hearth.cli("invoke", "echo", "--payload", "-", "--content-type", "image/png", stdin=b"\x01" * (MAX_PAYLOAD + 1))
    check(code == 1 and out == b"", f"ended with {code}: {err}")
    check_in("6291456", err)
    check(len(hearth.ledger("echo")) == before, "nothing was recorded")


@case("payload: a response over the limit is the function's error")
def response(world):
    hearth = world.function("echo")
    answer = hearth.invoke("echo", json.dumps({"answer_bytes": MAX_RESPONSE + 1}).encode(), code=10)
    check_in("large", json.dumps(answer["invocation"]["error"]))


@case("payload: Invoke takes 1 MiB, and says which method takes more")
def unary(world):
    hearth = world.function("echo")
    method = hearth.api.pool.FindServiceByName("hearth.v1.InvocationService").FindMethodByName("Invoke")
    request = hearth.api.message(method.input_type, {"name": "tenants/default/functions/echo"})
    request.payload = b"\x01" * ((1 << 20) + 1)
    try:
        hearth.api.channel.unary_unary(
            "/hearth.v1.InvocationService/Invoke", request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: data)(request, timeout=60)
    except grpc.RpcError as error:
        check(error.code() == grpc.StatusCode.INVALID_ARGUMENT, str(error.code()))
        check_in("InvokeStream", error.details() + json.dumps(hearth.api.details(error)))
        return
    check(False, "it was not refused")


@case("artifact: a digest that does not match is refused, and nothing is kept")
def digest(world):
    hearth = world.shared
    method = hearth.api.pool.FindServiceByName("hearth.v1.ArtifactService").FindMethodByName("UploadArtifact")
    chunk = hearth.api.message(method.input_type, {})
    chunk.chunk = b"\0" * 1024
    before = hearth.data_files()
    refused(hearth, "hearth.v1.ArtifactService/UploadArtifact", [
        {"header": {"parent": "tenants/default", "expectedDigest": "sha256:" + "0" * 64}}, chunk],
        grpc.StatusCode.INVALID_ARGUMENT, "ARTIFACT_MISMATCH")
    left = [name for name in hearth.data_files() if name not in before and not name.endswith(("-wal", "-shm", "-journal"))]
    check(left == [], f"left behind: {left}")


@case("artifact: an archive that climbs out of its folder is refused")
def climbing(world):
    import io
    import tarfile
    hearth = world.shared
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        entry = tarfile.TarInfo("../../escape")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    method = hearth.api.pool.FindServiceByName("hearth.v1.ArtifactService").FindMethodByName("UploadArtifact")
    chunk = hearth.api.message(method.input_type, {})
    chunk.chunk = data.getvalue()
    artifact = hearth.api.call("hearth.v1.ArtifactService/UploadArtifact",
                               [{"header": {"parent": "tenants/default"}}, chunk])
    hearth.api.call("hearth.v1.FunctionService/CreateFunction", {"parent": "tenants/default", "functionId": "climbs"})
    operation = hearth.api.call("hearth.v1.FunctionService/CreateVersion", {
        "parent": "tenants/default/functions/climbs",
        "version": {"spec": {"runtime": "base", "artifact": artifact.name, "interface": {"stdio": {"command": ["cat"]}}}}})
    operation = hearth.api.call("google.longrunning.Operations/WaitOperation", {"name": operation.name, "timeout": "60s"})
    check(operation.done and operation.error.code == 3, str(operation))
    check_in("escape", operation.error.message)


@cases("names: {}", [
    ("a function that is not there", ["invoke", "nobody"], "RESOURCE_NOT_FOUND"),
    ("a version that is not there", ["invoke", "echo:99"], "RESOURCE_NOT_FOUND"),
    ("a runtime that is not there", ["deploy", ECHO, "--name", "rt", "--runtime", "cobol"], "cobol"),
])
def names(world, _, arguments, words):
    code, out, err = world.function("echo").cli(*arguments)
    check(code == 1 and out == b"", f"ended with {code}: {err}")
    check_in(words, err)


@case("idempotency: the same key again is the same invocation, billed once")
def idempotency(world):
    hearth = world.function("echo")
    before = len(hearth.ledger("echo"))
    first = hearth.invoke("echo", b'{"n": 1}', "--idempotency-key", "integration-1")
    again = hearth.invoke("echo", b'{"n": 1}', "--idempotency-key", "integration-1")
    check(first["invocation"]["name"] == again["invocation"]["name"], "it is the same invocation")
    check(first["payload"] == again["payload"], "with the same answer")
    check(len(hearth.ledger("echo")) == before + 1, "and one record")


@case("health and reflection are served")
def health(world):
    hearth = world.shared
    for service in ("grpc.health.v1.Health", "hearth.v1.FunctionService", "hearth.v1.InvocationService",
                    "google.longrunning.Operations"):
        check(service in hearth.api.services, f"{service} in {hearth.api.services}")
    health = hearth.api.call("grpc.health.v1.Health/Check", {})
    check(hearth.api.json(health)["status"] == "SERVING", "hearthd says that it is serving")
