# SPDX-License-Identifier: Apache-2.0
"""What a clone of a snapshot costs the host once it has answered and idles: 10 at once, 100 with --full."""

import base64
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import Hearth, await_true, check
from .registry import case

INVOKE = "hearth.v1.InvocationService/Invoke"
MEMORY_MIB = 128
BUSY, PAUSED = 4, 5  # Of Instance.State.
RESTORED = 3         # Of StartKind.
CLONE_LIMIT = 12_000_000
VMM_LIMIT = 1_500_000
HELD_SECONDS = 30  # So long an invocation takes, or until its VMM is thawed if that is later.
# Of memory.stat: what a VMM's cgroup is charged for.
CHARGES = ("anon", "shmem", "pagetables", "sec_pagetables", "kernel_stack", "percpu", "sock", "slab")


def mem_available():
    return int(re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024


def rss(process):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) * 1024


def mappings(pid):
    """[begin, end, {field: bytes}] of each."""
    found = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            found.append((int(match[1], 16), int(match[2], 16), {}))
        elif match := re.match(r"(\w+): +(\d+) kB", line):
            found[-1][2][match[1]] = int(match[2]) * 1024
    return found


def cgroup_of(pid):
    return Path("/sys/fs/cgroup") / Path(f"/proc/{pid}/cgroup").read_text().strip().split("::/")[1]


def guest_ram(maps, size):
    """Indices of the adjoining mappings that are the guest's RAM, file and holes: together they have its size."""
    for first in range(len(maps)):
        for last in range(first, len(maps)):
            if last > first and maps[last][0] != maps[last - 1][1]:
                break
            if maps[last][1] - maps[first][0] == size:
                return range(first, last + 1)
    return range(0)


class Memory:
    """Of one hearth-vmm, in bytes."""

    def __init__(self, pid):
        maps = mappings(pid)
        guest = guest_ram(maps, MEMORY_MIB << 20)
        self.has_guest = len(guest) > 0
        self.pss = self.guest_private = self.guest_pss = self.vmm_private = 0
        for index, (_, _, fields) in enumerate(maps):
            private = fields["Private_Clean"] + fields["Private_Dirty"]
            self.pss += fields["Pss"]
            if index in guest:
                self.guest_private += private
                self.guest_pss += fields["Pss"]
            else:
                self.vmm_private += private
        stat = dict(line.split() for line in (cgroup_of(pid) / "memory.stat").read_text().splitlines())
        self.charges = {name: int(stat.get(name, 0)) for name in CHARGES}


def instances(hearth):
    """As protobuf messages: turning them into JSON by the hundred, time and again, would keep an emulated machine busy."""
    request = {"parent": "tenants/default/functions/echo", "pageSize": 1000}
    return hearth.api.call("hearth.v1.InstanceService/ListInstances", request).instances


def count_in(hearth, state):
    return sum(one.state == state for one in instances(hearth))


def hold(world, hearth, count):
    """`count` invocations at once, each in an instance of its own. A VMM is frozen as soon as its instance has one, for
    emulated machines that have something to do, be it to wait, would keep the processor from making the others."""
    hearth.api
    begin = time.monotonic()
    frozen = {}
    request = {"name": "tenants/default/functions/echo",
               "payload": base64.b64encode(json.dumps({"sleep": HELD_SECONDS}).encode()).decode()}
    with ThreadPoolExecutor(count) as pool:
        running = []
        try:
            for number in range(count):
                running.append(pool.submit(hearth.api.call, INVOKE, request, timeout=1800))
                await_true(lambda: any(one.done() for one in running) or count_in(hearth, BUSY) > number, f"clone {number} runs", 240)
                for pid in set(hearth.vmms()) - set(frozen):
                    if Memory(pid).has_guest:
                        frozen[pid] = cgroup_of(pid) / "cgroup.freeze"
                        frozen[pid].write_text("1")
                if number % 20 == 19:
                    world.tell(f"{number + 1} run after {time.monotonic() - begin:.0f} s, MemAvailable {mb(mem_available())}")
        finally:
            for switch in frozen.values():
                switch.write_text("0")
        for answer in [one.result() for one in running]:
            check(answer.invocation.outcome == 1, f"{answer.invocation.error}{hearth.launcher.tail()} {hearth.hearthd.tail()}")


def mb(total, count=1):
    return f"{total / count / 1e6:.2f} MB"


@case("clones: many of one Python snapshot, alive and answered, cost at most 12 MB each", "clones")
def clones(world):
    count = 100 if world.full else 10
    with Hearth(world.programs, idle_stop=7200, waiting_vmms=2, extra=["--overcommit=16", "--queue-wait=900"]) as hearth:
        hearth.deploy("echo", "--timeout", "900")
        hold(world, hearth, 1)
        settled = lambda wanted: count_in(hearth, PAUSED) == wanted and len(hearth.vmms()) == wanted + 2
        await_true(lambda: settled(1), "one idle clone, two VMMs that wait")
        before = mem_available()
        daemons_before = [rss(daemon.process.pid) for daemon in (hearth.hearthd, hearth.launcher)]
        begin = time.monotonic()
        hold(world, hearth, count)
        took = time.monotonic() - begin
        await_true(lambda: settled(len(instances(hearth))), "all idle, two VMMs that wait", 300)
        lost = before - mem_available()
        daemons = [rss(daemon.process.pid) for daemon in (hearth.hearthd, hearth.launcher)]
        alive = instances(hearth)
        check(len(alive) == count and all(one.served >= 1 for one in alive), f"{len(alive)} instances, each has answered")
        check(all(one.start_kind == RESTORED for one in alive), "all of them clones")
        of = [memory for memory in map(Memory, hearth.vmms()) if memory.has_guest]
        check(len(of) == count, f"{len(of)} VMMs with a guest of {MEMORY_MIB} MiB")
    total = lambda field: sum(getattr(memory, field) for memory in of)
    charges = ", ".join(f"{name} {mb(sum(memory.charges[name] for memory in of), count)}" for name in CHARGES)
    host_mib = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) >> 10
    lines = [
        f"{count} clones of one snapshot alive on a host of {host_mib} MiB, made in {took:.0f} s, each idle after its answer:",
        f"each PSS {mb(total('pss'), count)} (largest {mb(max(m.pss for m in of))}), MemAvailable lost {mb(lost, count - 1)}; at most 12",
        f"each VMM's private memory beside guest RAM {mb(total('vmm_private'), count)} (largest {mb(max(m.vmm_private for m in of))}); at most 1.5",
        f"each guest's own pages {mb(total('guest_private'), count)}, its share of the snapshot's {mb(total('guest_pss') - total('guest_private'), count)}; "
        f"charged to its cgroup: {charges}",
        f"hearthd {mb(daemons[0] - daemons_before[0], count - 1)} and hearth-launcher {mb(daemons[1] - daemons_before[1], count - 1)} for each",
    ]
    text = "; ".join(lines)
    check(max(memory.pss for memory in of) <= CLONE_LIMIT, text)
    check(lost / (count - 1) <= CLONE_LIMIT, text)
    check(max(memory.vmm_private for memory in of) <= VMM_LIMIT, text)
    return lines
