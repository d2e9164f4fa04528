// SPDX-License-Identifier: Apache-2.0
#include "bench/command.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>

#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

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

}  // namespace

void AddOutput(CLI::App* command, Output* output) {
  command->add_flag("--json", output->json, "Print JSON, all samples in it, instead of the table");
  command->add_option("--samples", output->samples_file, "Write that JSON to a file as well");
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

void AddSocket(CLI::App* command, std::string* socket) {
  command->add_option("--socket", *socket, "hearthd's socket")->envname("HEARTH_SOCKET");
}

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

void AddCall(CLI::App* command, CallOptions* options) {
  command->add_option("--function", options->call.function, "Its id or name")->required();
  command->add_option("--payload", options->payload_file, "A file; without one the payload is {}");
  command->add_option("--content-type", options->call.content_type, "Of the payload");
}

absl::StatusOr<Call> ReadCall(const CallOptions& options) {
  Call call = options.call;
  call.function = FunctionName(call.function);
  if (!options.payload_file.empty()) {
    ASSIGN_OR_RETURN(call.payload, ReadPayload(options.payload_file));
  }
  return call;
}

std::string FunctionName(const std::string& name_or_id) {
  if (name_or_id.find('/') != std::string::npos) return name_or_id;
  return "tenants/default/functions/" + name_or_id;
}

absl::StatusOr<std::string> ReadPayload(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string payload(std::istreambuf_iterator<char>(stream), {});
  if (!stream) return absl::NotFoundError("cannot read the payload " + file);
  return payload;
}

}  // namespace hearth::bench
