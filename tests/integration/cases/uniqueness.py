# SPDX-License-Identifier: Apache-2.0
"""Many restores of one snapshot: what each draws is its own, its clock is the host's, its timers do what
docs/uniqueness.md says. 30 restores, 1,000 with --full."""

import base64
import json
import time
from collections import Counter

from harness import Hearth, check
from .registry import case

INVOKE = "hearth.v1.InvocationService/Invoke"
DRAWN = ("getrandom", "uuid4", "boot_id", "hostname", "machine-id", "RAND_bytes", "tempfile", "random")
CLOCK_LIMIT_NS = 20_000_000
# Of one instance, until its offset is known well enough.
MOST_READINGS = 300
TIMER_NS = 5_000_000_000
PERIOD_NS = 5_000_000_000
# A timer may be late by what an emulated machine needs to get to it, but not by what the snapshot was stored.
LATE_NS = 3_000_000_000


class Clone:
    """Invocations of `unique`, each bracketed by the host's clock."""

    def __init__(self, hearth):
        self.hearth = hearth
        # guest - host: the guest read its clock after hearthd had the request and before it had the answer, so every
        # reading bounds the offset on both sides, and all of one instance bound the same offset: nothing slews it.
        self.least, self.most = -float("inf"), float("inf")
        self.readings = 0

    def invoke(self, do):
        payload = base64.b64encode(json.dumps({"do": do}).encode()).decode()
        answer = self.hearth.api.call(INVOKE, {"name": "tenants/default/functions/unique", "payload": payload}, timeout=600)
        if do != "leave":
            check(answer.invocation.outcome == 1, f"{do}: {answer.invocation}")
        payload = json.loads(answer.payload) if answer.payload else None
        if payload and "now" in payload:
            self.readings += 1
            self.least = max(self.least, payload["now"] - answer.invocation.end_time.ToNanoseconds())
            self.most = min(self.most, payload["now"] - answer.invocation.start_time.ToNanoseconds())
        return answer.invocation, payload

    def within(self):
        """True: the whole of what the offset can be is within the limit. False: none of it is. None: not known yet."""
        if -CLOCK_LIMIT_NS <= self.least and self.most <= CLOCK_LIMIT_NS:
            return True
        return False if self.most < -CLOCK_LIMIT_NS or self.least > CLOCK_LIMIT_NS else None


def check_timers(told):
    """How late the timers were: (the thread's, which waits on the monotonic clock, the date's)."""
    woken = told["woken"]
    check(not woken["rang"] and not woken["due"], "no monotonic timer had fired when the instance was restored")
    check(woken["monotonic"] - told["armed"] < TIMER_NS, f"monotonic time stood still: {told}")
    check(told["fired"] - told["armed"] >= TIMER_NS, f"the timerfd ran for its 5 s: {told}")
    rang = told["rang"] - told["armed"] - TIMER_NS
    check(0 <= rang < LATE_NS, f"the thread's timer was late by {rang} ns: {told}")
    due, now = told["at_date"]
    check(due == (now >= told["armed_date"] + TIMER_NS), f"the timer with a date is due when its date has come: {told}")
    late = told["date"] - (told["armed_date"] + TIMER_NS + PERIOD_NS * (told["missed"] + told["again"] - 1))
    check(0 <= late < LATE_NS, f"the timer with dates was late by {late} ns: {told}")
    return rang, late


def restore_one(hearth, drawn, with_timers):
    """(Clone, how late its timers were or None, how long the restore took)"""
    clone = Clone(hearth)
    begin = time.monotonic()
    invocation, answer = clone.invoke("draw")
    took = time.monotonic() - begin
    kind = hearth.api.json(invocation)["startKind"]
    check(kind == "RESTORED", f"it was {kind}")
    for what in DRAWN:
        drawn[what].append(answer[what])
    check(answer["boot_id"] == invocation.guest_boot_id, "the boot id is the one that the node was told")
    check(answer["machine-id"] == invocation.instance.rsplit("/", 1)[-1].replace("-", ""), "the machine id is the instance's")
    late = check_timers(clone.invoke("timers")[1]) if with_timers else None
    while clone.within() is None and clone.readings < MOST_READINGS:
        again, _ = clone.invoke("read")
        check(again.instance == invocation.instance, "it is the same instance")
    clone.invoke("leave")
    return clone, late, took


@case("uniqueness: what each of many restores draws is its own, the clock is right, timers fire as they should", "clones")
def uniqueness(world):
    count = 1000 if world.full else 30
    drawn, clones, timers, took = {what: [] for what in DRAWN}, [], [], []
    with Hearth(world.programs, idle_pause=60, idle_stop=600, waiting_vmms=2) as hearth:
        hearth.deploy("unique")
        begin = time.monotonic()
        for number in range(count):
            clone, late, seconds = restore_one(hearth, drawn, number % (count // 10) == 0)
            clones.append(clone)
            took.append(seconds)
            if late:
                timers.append(late)
            if world.full and number % 100 == 99:
                world.tell(f"{number + 1} restores in {time.monotonic() - begin:.0f} s")
        seconds = time.monotonic() - begin
    for what, values in drawn.items():
        repeated = [value for value, times in Counter(values).items() if times > 1]
        check(len(values) == count and not repeated, f"{what}: {repeated[:3]} more than once in {len(values)}")
    ms = lambda ns: f"{ns / 1e6:+.1f}"
    lines = [
        f"{count} restores in {seconds:.0f} s, {sorted(took)[count // 2]:.2f} s each (median): {count} distinct values each of "
        + ", ".join(DRAWN),
        f"wall clock: all that the offsets can be lies between {ms(min(c.least for c in clones))} and "
        f"{ms(max(c.most for c in clones))} ms of the host's, by {sum(c.readings for c in clones) / count:.1f} readings each; "
        f"no reading is against all being between {ms(max(c.least for c in clones))} and {ms(min(c.most for c in clones))} ms",
        f"5 s timers of {len(timers)}: monotonic after their remainder, late by at most {ms(max(t[0] for t in timers))} ms; "
        f"realtime at their dates, late by at most {ms(max(t[1] for t in timers))} ms",
    ]
    wrong, unknown = ([c for c in clones if c.within() is answer] for answer in (False, None))
    text = [f"{ms(c.least)} to {ms(c.most)} ms" for c in wrong + unknown]
    check(not text, f"{len(wrong)} clocks are wrong by more than 20 ms, of {len(unknown)} it is not known: {text[:8]}; {lines}")
    return lines
