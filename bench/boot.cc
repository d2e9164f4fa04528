// SPDX-License-Identifier: Apache-2.0
#include "bench/boot.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

namespace hearth::bench {
namespace {

using Boot = NamedBoot::second_type;

// Of the program as it would be installed; the file itself may hold debugging information.
absl::StatusOr<int64_t> StrippedBytes(const std::string& program) {
  std::string output = (std::filesystem::temp_directory_path() / "hearth-bench-XXXXXX").string();
  const int fd = mkstemp(output.data());
  if (fd < 0) return ErrnoStatus("mkstemp");
  close(fd);
  std::string input = program;
  char name[] = "strip";
  char option[] = "-o";
  char* argv[] = {name, option, output.data(), input.data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, name, nullptr, nullptr, argv, environ);
  int status = 0;
  if (error == 0) {
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  std::error_code size_error;
  const auto size = std::filesystem::file_size(output, size_error);
  std::filesystem::remove(output, size_error);
  if (error != 0 || status != 0) {
    return absl::UnavailableError("strip (package binutils) cannot be run");
  }
  return static_cast<int64_t>(size);
}

// A machine alone, and then a second one: what both have in common (the program's code) counts as
// shared then, as it is on a host with many.
absl::StatusOr<BootResults::Memory> MeasureMemory(const Boot& boot, int64_t guest_ram_bytes) {
  BootResults::Memory memory;
  ASSIGN_OR_RETURN(const auto first, boot());
  ASSIGN_OR_RETURN(memory.alone, ReadProcessMemory(first->pid(), guest_ram_bytes));
  ASSIGN_OR_RETURN(const auto second, boot());
  ASSIGN_OR_RETURN(memory.repeated, ReadProcessMemory(second->pid(), guest_ram_bytes));
  return memory;
}

}  // namespace

absl::Status RunInTurns(const std::vector<NamedBoot>& machines, const BootOptions& options,
                        const std::function<void(const std::string&)>& progress,
                        BootResults* results) {
  for (int run = 0; run < options.warmup + options.runs; ++run) {
    for (const auto& [name, boot] : machines) {
      progress(name + " " + std::to_string(run + 1) + " of " +
               std::to_string(options.warmup + options.runs));
      const auto machine = boot();
      if (!machine.ok()) return Annotate(machine.status(), name);
      auto& list = run < options.warmup ? results->discarded : results->samples;
      list[name].push_back((*machine)->sample);
    }
  }
  for (const auto& [name, boot] : machines) {
    progress("memory of " + name);
    const auto memory = MeasureMemory(boot, int64_t{options.memory_mib} << 20);
    if (!memory.ok()) return Annotate(memory.status(), name);
    results->memory[name] = *memory;
  }
  return absl::OkStatus();
}

absl::StatusOr<BootResults> RunBoot(const BootOptions& options,
                                    const std::function<void(const std::string&)>& progress) {
  BootResults results;
  results.clock = MeasureClock();
  ASSIGN_OR_RETURN(results.stripped_bytes, StrippedBytes(options.vmm));
  ASSIGN_OR_RETURN(const auto files, BootFiles::Create());
  std::vector<NamedBoot> machines;
  machines.emplace_back("hearth", [&] { return BootHearth(options, *files); });
  if (!options.qemu.empty()) {
    machines.emplace_back("qemu", [&] { return BootQemu(options, *files); });
  }
  if (!options.images.empty()) machines.emplace_back("agent", [&] { return BootAgent(options); });
  RETURN_IF_ERROR(RunInTurns(machines, options, progress, &results));
  return results;
}

}  // namespace hearth::bench
