# SPDX-License-Identifier: Apache-2.0
"""The three examples on real input, through the CLI and through a generic client by reflection."""

import hashlib
import json
import struct
import tempfile
from pathlib import Path

from harness import HERE, Skipped, check, check_in
from .registry import case

EXAMPLES = HERE.parent.parent / "examples"
TEXT = Path("/usr/share/common-licenses/GPL-3")


def stream_invoke(hearth, name, payload, content_type):
    """InvokeStream by a client that knows the API by reflection only: (Invocation, payload, its type)."""
    def parts():
        yield {"start": {"name": f"tenants/default/functions/{name}", "contentType": content_type}}
        for at in range(0, len(payload), 1 << 20):
            yield hearth.api.message(request_type, {}).__class__(chunk=payload[at:at + (1 << 20)])
    method = hearth.api.pool.FindServiceByName("hearth.v1.InvocationService").FindMethodByName("InvokeStream")
    request_type = method.input_type
    answer, kind, finished = b"", "", None
    for part in hearth.api.call("hearth.v1.InvocationService/InvokeStream", parts(), timeout=300):
        which = part.WhichOneof("part")
        if which == "started":
            kind = part.started.content_type
        elif which == "chunk":
            answer += part.chunk
        else:
            finished = hearth.api.json(part.finished)
    return finished, answer, kind


def photo_of(world):
    if not world.photo:
        raise Skipped("no --photo was given")
    return world.photo.read_bytes()


def check_png(data):
    check(data[:8] == b"\x89PNG\r\n\x1a\n", f"a PNG, not {data[:20]!r}")
    check(struct.unpack_from(">I", data, 16)[0] == 256, "the picture is 256 pixels wide")


@case("examples: thumbnail makes a PNG of a real photo through the CLI")
def thumbnail_cli(world):
    photo_of(world)
    hearth = world.shared
    code, out, err = hearth.cli("deploy", EXAMPLES / "thumbnail")
    check(code == 0, f"deploy ended with {code}: {err}")
    check_in("deploy   thumbnail v1: upload", out.decode())
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "out.png"
        for _ in range(2):
            code, out, err = hearth.cli("invoke", "thumbnail", "--payload", world.photo, "--content-type", "image/jpeg",
                                        "--output", png)
            check(code == 0, f"invoke ended with {code}: {err}")
            check_png(png.read_bytes())
        check_in("warm", err)
    code, out, err = hearth.cli("usage", "thumbnail")
    check_in("thumbnail", out.decode())
    code, out, err = hearth.cli("logs", "thumbnail")
    check_in("REPORT", out.decode())


@case("examples: thumbnail by reflection")
def thumbnail_reflection(world):
    photo = photo_of(world)
    invocation, answer, kind = stream_invoke(world.shared, "thumbnail", photo, "image/jpeg")
    check(invocation["outcome"] == "SUCCEEDED", str(invocation))
    check(kind == "image/png", f"the content type is {kind}")
    check_png(answer)


@case("examples: wordfreq counts a licence's words through the CLI")
def wordfreq_cli(world):
    hearth = world.shared
    hearth.deploy("wordfreq", folder=EXAMPLES / "wordfreq")
    answer = hearth.json("invoke", "wordfreq", "--payload", TEXT, "--content-type", "text/plain")
    check(answer["payload"]["top"][0]["word"] == "the", str(answer["payload"])[:200])


@case("examples: wordfreq by reflection, and the same answer")
def wordfreq_reflection(world):
    invocation, answer, _ = stream_invoke(world.shared, "wordfreq", TEXT.read_bytes(), "text/plain")
    check(invocation["outcome"] == "SUCCEEDED", str(invocation))
    check(json.loads(answer)["top"][0]["word"] == "the", answer[:200].decode())


@case("examples: hash, a static C++ bootstrap, through the CLI")
def hash_cli(world):
    hearth = world.shared
    hearth.deploy("hash", folder=world.build / "examples/hash")
    answer = hearth.json("invoke", "hash", "--payload", TEXT, "--content-type", "text/plain")
    check_in(hashlib.sha256(TEXT.read_bytes()).hexdigest(), json.dumps(answer["payload"]))


@case("examples: hash by reflection")
def hash_reflection(world):
    invocation, answer, _ = stream_invoke(world.shared, "hash", TEXT.read_bytes(), "application/octet-stream")
    check(invocation["outcome"] == "SUCCEEDED", str(invocation))
    check_in(hashlib.sha256(TEXT.read_bytes()).hexdigest(), answer.decode())


@case("examples: each invocation is in the ledger once, host and guest figures both")
def ledger(world):
    hearth = world.shared
    for name in ("thumbnail", "wordfreq", "hash"):
        records = hearth.ledger(name)
        check(len({record["name"] for record in records}) == len(records) > 0, f"{name}: {len(records)} records")
        for record in records:
            usage = record["usage"]
            check(int(usage["host"]["wallNs"]) > 0 and int(usage["host"]["cpuNs"]) > 0, f"{name}: host figures in {usage}")
            check(int(usage["guest"]["wallNs"]) > 0, f"{name}: guest figures in {usage}")
            check(int(usage["billed"]["invocations"]) == 1, f"{name}: billed once in {usage}")


@case("examples: stdio, a shell's commands without any SDK")
def stdio(world):
    hearth = world.shared
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "words").write_text("x\n")
        hearth.deploy("upper", "--runtime", "base", "--command", "tr a-z A-Z", folder=folder)
    code, out, err = hearth.cli("invoke", "upper", "--data", "hello")
    check(code == 0 and out == b"HELLO", f"{code}: {out} {err}")
