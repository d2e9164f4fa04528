// SPDX-License-Identifier: Apache-2.0
// hearth-bench: what Hearth costs, measured.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "bench/boot.h"
#include "bench/invoke.h"
#include "bench/restore.h"

namespace hearth::bench {
namespace {

constexpr int kExitMissed = 3;

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

std::string Beside(const char* program) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const auto& folder : {self, self / "../vmm"}) {
    if (access((folder / program).c_str(), X_OK) == 0) {
      return std::filesystem::canonical(folder / program);
    }
  }
  return program;
}

struct Output {
  bool json = false;
  std::string samples_file;
};

void ShowProgress(const std::string& what) {
  static const bool show = isatty(STDERR_FILENO) == 1;
  if (show) std::cerr << "\r\033[K" << what << std::flush;
}

int Fail(absl::string_view message) {
  ShowProgress("");
  std::cerr << "hearth-bench: " << message << "\n";
  return 1;
}

int Print(const Output& output, const std::string& text, const nlohmann::json& json) {
  ShowProgress("");
  const std::string document = json.dump(2) + "\n";
  std::cout << (output.json ? document : text);
  if (output.samples_file.empty()) return 0;
  std::ofstream file(output.samples_file);
  file << document;
  file.close();
  return file ? 0 : Fail("cannot write " + output.samples_file);
}

int Report(const BootOptions& options, const absl::StatusOr<BootResults>& results,
           const Output& output, bool check) {
  if (!results.ok()) return Fail(results.status().message());
  const int printed = Print(output, BootText(options, *results), BootJson(options, *results));
  for (const Target& target : Targets(*results)) {
    if (check && !target.met()) return kExitMissed;
  }
  return printed;
}

int Invoke(InvokeOptions options, const std::string& payload_file, const Output& output) {
  if (!payload_file.empty()) {
    std::ifstream file(payload_file, std::ios::binary);
    options.payload.assign(std::istreambuf_iterator<char>(file), {});
    if (!file) return Fail("cannot read " + payload_file);
  }
  if (options.function.find('/') == std::string::npos) {
    options.function = "tenants/default/functions/" + options.function;
  }
  const auto results = RunInvoke(options, ShowProgress);
  if (!results.ok()) return Fail(results.status().message());
  return Print(output, InvokeText(options, *results), InvokeJson(options, *results));
}

void AddMachine(CLI::App* command, BootOptions* options) {
  options->vmm = Beside("hearth-vmm");
  options->qemu = "qemu-system-x86_64";
  command->add_option("--vmm", options->vmm, "hearth-vmm (found beside hearth-bench)");
  command->add_option("--qemu", options->qemu, "QEMU's program; '' leaves it out");
  command->add_option("--memory", options->memory_mib, "Guest RAM in MiB (128)")
      ->check(CLI::Range(32, 3072));
  command->add_option("--runs", options->runs, "Samples of each (10)")->check(CLI::Range(1, 10000));
  command->add_option("--warmup", options->warmup, "Runs before them that are discarded (2)")
      ->check(CLI::Range(0, 100));
}

void AddOutput(CLI::App* command, Output* output) {
  command->add_flag("--json", output->json, "Print JSON, all samples in it, instead of the table");
  command->add_option("--samples", output->samples_file, "Write that JSON to a file as well");
}

int Main(int argc, char** argv) {
  CLI::App app("Measures what Hearth costs.", "hearth-bench");
  app.require_subcommand(1);
  CLI::App* boot = app.add_subcommand("boot", "Starting a microVM, next to QEMU's");
  boot->footer(kBootHelp);
  BootOptions options;
  AddMachine(boot, &options);
  Output output;
  bool check = false;
  boot->add_option("--images", options.images, "An image store, for runs with the real agent");
  boot->add_option("--runtime", options.runtime, "The store's runtime to attach (python3.11)");
  AddOutput(boot, &output);
  boot->add_flag("--check", check, "Exit with 3 when a target is missed");

  CLI::App* restore = app.add_subcommand("restore", "Restoring a microVM, next to QEMU's");
  restore->footer(kRestoreHelp);
  RestoreOptions restore_options;
  AddMachine(restore, &restore_options.machine);
  restore->add_option("--kernel", restore_options.kernel, "A Linux (vmlinux)")->required();
  restore->add_option("--initrd", restore_options.initrd, "Its init writes \"tick\" without end")
      ->required();
  AddOutput(restore, &output);
  restore->add_flag("--check", check, "Exit with 3 when a target is missed");

  CLI::App* invoke = app.add_subcommand("invoke", "A function's invocations, cold and warm");
  invoke->footer(kInvokeHelp);
  InvokeOptions invoke_options;
  std::string payload_file;
  invoke->add_option("--socket", invoke_options.socket, "hearthd's socket")
      ->envname("HEARTH_SOCKET");
  invoke->add_option("--function", invoke_options.function, "Its id or name")->required();
  invoke->add_option("--payload", payload_file, "A file; without one the payload is {}");
  invoke->add_option("--content-type", invoke_options.content_type, "Of the payload");
  invoke->add_option("--runs", invoke_options.runs, "Samples of each (10)")
      ->check(CLI::Range(1, 10000));
  invoke->add_option("--warmup", invoke_options.warmup, "Runs before them that are discarded (2)")
      ->check(CLI::Range(0, 100));
  AddOutput(invoke, &output);
  CLI11_PARSE(app, argc, argv);
  if (*boot) return Report(options, RunBoot(options, ShowProgress), output, check);
  if (*restore) {
    const auto results = RunRestore(restore_options, ShowProgress);
    return Report(restore_options.machine, results, output, check);
  }
  return Invoke(invoke_options, payload_file, output);
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) {
  try {
    return hearth::bench::Main(argc, argv);
  } catch (const std::exception& error) {  // What CLI11 throws for an option declared wrongly.
    std::fprintf(stderr, "hearth-bench: %s\n", error.what());
    return 1;
  }
}
