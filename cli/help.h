// SPDX-License-Identifier: Apache-2.0
// What --help says below the options: how things are done, by example.
#pragma once

namespace hearth::cli {

inline constexpr char kHelp[] =
    R"(Examples:
  hearth deploy examples/thumbnail              make it, or make a new version of it
  hearth invoke thumbnail --payload cat.jpg --output cat.png
  hearth logs thumbnail -f                      what it prints, as it prints
  hearth usage                                  what ran and what it costs
  hearth doctor                                 what runs microVMs on this machine?

Exit codes:
  0 done   1 refused or failed; nothing ran   2 wrong command line or hearth.json
  3 hearthd cannot be reached   4 not now, try later   130 interrupted
  `invoke` only: 10 the function failed   11 timed out   12 out of memory   13 it, or word of it, was
  lost   14 it succeeded, but its result could not be written

With --json there is one JSON document on stdout, errors too ({"error": {...}}).
`hearth COMMAND --help` tells more about each.)";

inline constexpr char kDeployHelp[] =
    R"(DIR/hearth.json says how the folder is run; an option here replaces what it says:
  {
    "runtime": "python3.11",          which image: `hearth list runtimes`
    "handler": "app.handler",         module.function, for runtimes that need one
    "memoryMib": 256,                 128 (the default) to 10240, even
    "timeoutSeconds": 30,             of one invocation
    "initTimeoutSeconds": 10,         of what runs before the first one
    "environment": {"KEY": "value"},
    "secrets": ["TOKEN"],             variables of this command; in no snapshot, never shown
    "interface": "runtime-api",       or "stdio": a process for each invocation, with
    "command": ["./program"]          payload to its stdin, result from its stdout
  }
The folder becomes a tar archive, the same for the same content; .git, .hg, .svn, __pycache__ and
.DS_Store stay out. What was uploaded before is not uploaded again.

Examples:
  hearth deploy examples/thumbnail
  hearth deploy build/service --name service --runtime base --memory 512 --env MODE=fast
  hearth deploy tools --runtime base --command 'tr a-z A-Z')";

inline constexpr char kInvokeHelp[] =
    R"(The result goes to stdout or --output, all else to stderr. A payload is at most 6 MiB; without
one, {} is sent. A repeated --idempotency-key answers the first one's result; an invocation with one
goes on when this command is interrupted, any other is ended.

Examples:
  hearth invoke wordfreq --data '{"text": "to be or not to be"}'
  hearth invoke thumbnail --payload cat.jpg --output cat.png
  curl -s example.org | hearth invoke wordfreq --payload - --content-type text/html

Exit codes:
  0 succeeded   10 the function failed   11 timed out   12 out of memory
  13 its instance or the connection was lost: it may have run
  14 it succeeded, but its result could not be written
  1 or 4: it did not start (4: try again later)   3 hearthd cannot be reached)";

inline constexpr char kLogsHelp[] =
    R"(A line is time, the end of the invocation's id (or `init`), out, err or --- (hearthd's own), text.

Examples:
  hearth logs thumbnail --tail 20
  hearth logs thumbnail -f
  hearth logs thumbnail --json | jq -r .text)";

inline constexpr char kListHelp[] =
    R"(Examples:
  hearth list                         functions
  hearth list versions thumbnail
  hearth list instances               microVMs that run or are paused
  hearth list invocations thumbnail --limit 10
  hearth list runtimes)";

inline constexpr char kDescribeHelp[] =
    R"(Examples:
  hearth describe thumbnail
  hearth describe thumbnail:2)";

inline constexpr char kSnapshotsHelp[] =
    R"(A version is initialised once, when it is deployed; its instances are restored from a snapshot of
that. NAME is a function (its live version), NAME:3 a version, or a snapshot's whole name.

Examples:
  hearth snapshots list
  hearth snapshots describe thumbnail
  hearth snapshots rebuild thumbnail:2          the old one serves until the new one is ready
  hearth snapshots delete thumbnail --yes       the next instance boots, and makes a new one)";

inline constexpr char kImagesHelp[] =
    R"(Kernel, agent and runtimes. When the provider changes them (guest-images/build, then `reload` or
SIGHUP to hearthd), versions go on being served from what they have until a new snapshot is ready.

Examples:
  hearth images list
  hearth images outdated                        what still runs on old ones
  hearth images reload)";

inline constexpr char kUsageHelp[] =
    R"(CPU and wall times come twice: as the host measured them outside the microVM, and as the guest
reported them. What is charged comes from the host's only. A GB-s is 1024 MiB for a second.

Examples:
  hearth usage
  hearth usage thumbnail --since-hours 24 --json)";

inline constexpr char kDeleteHelp[] =
    R"(Ends the function's instances and removes its versions and aliases. Its usage stays.

Examples:
  hearth delete thumbnail
  hearth delete thumbnail:2 --yes)";

inline constexpr char kDoctorHelp[] =
    R"(Measures, and assumes nothing: whether /dev/kvm is there and may be used, how fast a guest's
kernel mode runs in it, whether it knows the instructions that Linux needs; looks for what libvirt
needs to run QEMU; then memory, disk and cgroups. Then it chooses hearthd's backend, the first that
serves: hearth-vmm on KVM (kvm), QEMU on KVM by libvirt, QEMU that emulates the processor by libvirt
(libvirt). It says why, what that costs, how to start it, and what to install for the others.

Examples:
  hearth doctor
  hearth doctor --backend kvm              is hearth-vmm of use here?
  hearth doctor --json | jq -r .choice

With --baseline it compares hosts: which of them run each other's snapshots, and what processor all
have in common (by libvirt, for a fleet that is to be limited to it):
  hearth doctor --json > $(hostname).json       on each host
  hearth doctor --baseline *.json

Exit codes:
  0 a backend serves, or the one of --backend   5 none, only hearth-vmm in the emulated machine
  (tests/testbed)   6 nothing)";

}  // namespace hearth::cli
