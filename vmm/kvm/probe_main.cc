// SPDX-License-Identifier: Apache-2.0
// hearth-kvm-probe [DEVICE]: prints what a KVM can do as one JSON object. A program of its own, so
// that a KVM that misbehaves takes nobody with it.
#include <cstdio>
#include <string>

#include "vmm/kvm/probe.h"

namespace {

std::string Quoted(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + "\"";
}

std::string StatusJson(const absl::Status& status) {
  return absl::StrCat("{\"code\":", static_cast<int>(status.code()),
                      ",\"message\":", Quoted(status.message()), "}");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string device = argc > 1 ? argv[1] : "/dev/kvm";
  const hearth::vmm::ProbeReport report = hearth::vmm::ProbeKvm(device);
  std::string instructions;
  for (const auto& instruction : report.instructions) {
    absl::StrAppend(&instructions, instructions.empty() ? "" : ",",
                    "{\"name\":", Quoted(instruction.name),
                    ",\"works\":", instruction.works ? "true" : "false",
                    ",\"detail\":", Quoted(instruction.detail), "}");
  }
  std::printf(
      "{\"deviceStatus\":%s,\"machineStatus\":%s,\"createMs\":%.3f,"
      "\"kernelInstructionsPerSecond\":%.0f,\"fast\":%s,\"exitUs\":%.2f,\"instructions\":[%s],"
      "\"usable\":%s}\n",
      StatusJson(report.device).c_str(), StatusJson(report.machine).c_str(), report.create_ms,
      report.kernel_instructions_per_second, report.fast() ? "true" : "false", report.exit_us,
      instructions.c_str(), report.usable() ? "true" : "false");
  return 0;
}
