// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "absl/strings/str_split.h"
#include "bench/backends.h"
#include "bench/starts_command.h"

namespace hearth::bench {
namespace {

constexpr char kHelp[] =
    R"(The same starts of the same functions on each backend, one after the other, in one table: kvm is
hearth-launcher with hearth-vmm, libvirt is hearth-libvirt with QEMU. --prepare names a program that is
called with a kind of start, how many at once and a backend, and leaves hearthd on the socket such that
it starts so. Kinds are those of cold-start, and
  restored   restored in whichever way the backend has it; the snapshot's memory may be resident
A kind that a backend's capabilities rule out is left out there.

bench/run-backends does all of it, with instructions counted, QEMU on the testbed's KVM as hearth-vmm.

Example:
  hearth-bench backends --function hash=README.md --prepare bench/hearth-mode --json > backends.json)";

struct BackendsCommand {
  StartsCommand starts;
  std::string backends = "kvm,libvirt";
  std::string libvirt_socket;
  Output output;
  bool check = false;
};

int Run(BackendsCommand* command) {
  if (const absl::Status parsed = ParseStarts(&command->starts); !parsed.ok()) {
    return Fail(parsed.message());
  }
  if (command->starts.options.modes.empty()) return Fail("nothing to do: give --modes");
  BackendsOptions options;
  options.starts = command->starts.options;
  options.backends = absl::StrSplit(command->backends, ',');
  options.libvirt_socket = command->libvirt_socket;
  const auto results = RunBackends(options, ShowProgress);
  if (!results.ok()) return Fail(results.status().message());
  const int printed =
      Print(command->output, BackendsText(options, *results), BackendsJson(options, *results));
  if (command->check && !AllMeasured(RowsOf(options, *results))) return kExitMissed;
  return printed;
}

}  // namespace

void AddBackends(CLI::App* app, Commands* commands) {
  auto command = std::make_shared<BackendsCommand>();
  CLI::App* backends =
      app->add_subcommand("backends", "A function's starts on each backend, in one table");
  backends->footer(kHelp);
  // A script's own options come first, its caller's behind them.
  backends->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  AddStarts(backends, "cold-boot,restored,waiting,warm", &command->starts);
  backends->add_option("--backends", command->backends, "The others are held against the first")
      ->capture_default_str();
  backends->add_option("--libvirt-socket", command->libvirt_socket,
                       "Where hearth-libvirt listens; it is asked what its host can do");
  AddOutput(backends, &command->output);
  backends->add_flag("--check", command->check, "Exit with 3 when a figure is missing");
  commands->push_back({backends, [command] { return Run(command.get()); }});
}

}  // namespace hearth::bench
