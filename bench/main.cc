// SPDX-License-Identifier: Apache-2.0
// hearth-bench: what Hearth costs, measured.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "bench/boot.h"

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

int Boot(const BootOptions& options, bool json, bool check, const std::string& samples_file) {
  const bool show = isatty(STDERR_FILENO) == 1;
  const auto results = RunBoot(options, [&](const std::string& what) {
    if (show) std::cerr << "\r\033[K" << what << std::flush;
  });
  if (show) std::cerr << "\r\033[K" << std::flush;
  if (!results.ok()) {
    std::cerr << "hearth-bench: " << results.status().message() << "\n";
    return 1;
  }
  const std::string document = BootJson(options, *results).dump(2) + "\n";
  std::cout << (json ? document : BootText(options, *results));
  if (!samples_file.empty()) {
    std::ofstream file(samples_file);
    file << document;
    file.close();
    if (!file) {
      std::cerr << "hearth-bench: cannot write " << samples_file << "\n";
      return 1;
    }
  }
  for (const Target& target : Targets(*results)) {
    if (check && !target.met()) return kExitMissed;
  }
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Measures what Hearth costs.", "hearth-bench");
  app.require_subcommand(1);
  CLI::App* boot = app.add_subcommand("boot", "Starting a microVM, next to QEMU's");
  boot->footer(kBootHelp);
  BootOptions options;
  options.vmm = Beside("hearth-vmm");
  options.qemu = "qemu-system-x86_64";
  bool json = false;
  bool check = false;
  std::string samples_file;
  boot->add_option("--vmm", options.vmm, "hearth-vmm (found beside hearth-bench)");
  boot->add_option("--qemu", options.qemu, "QEMU's program; '' leaves it out");
  boot->add_option("--images", options.images, "An image store, for runs with the real agent");
  boot->add_option("--runtime", options.runtime, "The store's runtime to attach (python3.11)");
  boot->add_option("--memory", options.memory_mib, "Guest RAM in MiB (128)")
      ->check(CLI::Range(32, 3072));
  boot->add_option("--runs", options.runs, "Samples of each (10)")->check(CLI::Range(1, 10000));
  boot->add_option("--warmup", options.warmup, "Runs before them that are discarded (2)")
      ->check(CLI::Range(0, 100));
  boot->add_flag("--json", json, "Print JSON, all samples in it, instead of the table");
  boot->add_option("--samples", samples_file, "Write that JSON to a file as well");
  boot->add_flag("--check", check, "Exit with 3 when a target is missed");
  CLI11_PARSE(app, argc, argv);
  return Boot(options, json, check, samples_file);
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) { return hearth::bench::Main(argc, argv); }
