// SPDX-License-Identifier: Apache-2.0
// The subcommands boot, restore and invoke.
#include <memory>

#include "bench/command.h"
#include "bench/invoke.h"
#include "bench/restore.h"

namespace hearth::bench {
namespace {

constexpr char kBootHelp[] =
    R"(From posix_spawn of the VMM to the first byte that a guest of three instructions writes, next to
`qemu -M microvm` with the same guest in the same run; with --images, to a real agent's Hello too;
then memory beside guest RAM, and the stripped size. docs/bench.md says what is and is not in a
figure.

Times repeat only where instructions are counted. The whole of it, from the repository:
  tests/testbed/run --icount --memory 3072 -- build/release/bench/hearth-bench boot

Examples:
  hearth-bench boot --runs 20 --json > boot.json
  hearth-bench boot --qemu '' --images ~/.cache/hearth/images
  hearth-bench boot --check            exit with 3 when a target is missed)";

constexpr char kRestoreHelp[] =
    R"(From posix_spawn of the VMM, or from the request to one that waits, to the first byte that a restored
Linux writes, with the memory file resident and its working set known; next to QEMU's microvm from
a migration file, in the same run. bench/run-restore makes the guest and does all of it.)";

constexpr char kInvokeHelp[] =
    R"(Cold and warm in turn, through a hearthd that is running; each cold one waits until hearthd has ended
the function's instances, so start it with a short --idle-stop. bench/run-invoke does all of it.

Example:
  hearth deploy examples/wordfreq
  hearth-bench invoke --function wordfreq --payload README.md --content-type text/plain)";

int Report(const BootOptions& options, const absl::StatusOr<BootResults>& results,
           const Output& output, bool check) {
  if (!results.ok()) return Fail(results.status().message());
  const int printed = Print(output, BootText(options, *results), BootJson(options, *results));
  for (const Target& target : Targets(*results)) {
    if (check && !target.met()) return kExitMissed;
  }
  return printed;
}

int Invoke(InvokeOptions options, const CallOptions& call, const Output& output) {
  const auto read = ReadCall(call);
  if (!read.ok()) return Fail(read.status().message());
  options.call = *read;
  const auto results = RunInvoke(options, ShowProgress);
  if (!results.ok()) return Fail(results.status().message());
  return Print(output, InvokeText(options, *results), InvokeJson(options, *results));
}

}  // namespace

void AddBoot(CLI::App* app, Commands* commands) {
  struct Options {
    BootOptions boot;
    Output output;
    bool check = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* boot = app->add_subcommand("boot", "Starting a microVM, next to QEMU's");
  boot->footer(kBootHelp);
  AddMachine(boot, &options->boot);
  boot->add_option("--images", options->boot.images,
                   "An image store, for runs with the real agent");
  boot->add_option("--runtime", options->boot.runtime,
                   "The store's runtime to attach (python3.11)");
  AddOutput(boot, &options->output);
  boot->add_flag("--check", options->check, "Exit with 3 when a target is missed");
  commands->push_back({boot, [options] {
                         return Report(options->boot, RunBoot(options->boot, ShowProgress),
                                       options->output, options->check);
                       }});
}

void AddRestore(CLI::App* app, Commands* commands) {
  struct Options {
    RestoreOptions restore;
    Output output;
    bool check = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* restore = app->add_subcommand("restore", "Restoring a microVM, next to QEMU's");
  restore->footer(kRestoreHelp);
  AddMachine(restore, &options->restore.machine);
  restore->add_option("--kernel", options->restore.kernel, "A Linux (vmlinux)")->required();
  restore->add_option("--initrd", options->restore.initrd, "Its init writes \"tick\" without end")
      ->required();
  AddOutput(restore, &options->output);
  restore->add_flag("--check", options->check, "Exit with 3 when a target is missed");
  commands->push_back({restore, [options] {
                         const auto results = RunRestore(options->restore, ShowProgress);
                         return Report(options->restore.machine, results, options->output,
                                       options->check);
                       }});
}

void AddInvoke(CLI::App* app, Commands* commands) {
  struct Options {
    InvokeOptions invoke;
    CallOptions call;
    Output output;
  };
  auto options = std::make_shared<Options>();
  CLI::App* invoke = app->add_subcommand("invoke", "A function's invocations, cold and warm");
  invoke->footer(kInvokeHelp);
  AddSocket(invoke, &options->invoke.socket);
  AddCall(invoke, &options->call);
  invoke->add_option("--runs", options->invoke.runs, "Samples of each (10)")
      ->check(CLI::Range(1, 10000));
  invoke->add_option("--warmup", options->invoke.warmup, "Runs before them that are discarded (2)")
      ->check(CLI::Range(0, 100));
  AddOutput(invoke, &options->output);
  commands->push_back(
      {invoke, [options] { return Invoke(options->invoke, options->call, options->output); }});
}

}  // namespace hearth::bench
