// SPDX-License-Identifier: Apache-2.0
#include "control-plane/metering/billing.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "vmm/base/saturating.h"

namespace hearth::control {
namespace {

constexpr int64_t kBytesOfMib = 1 << 20;

int64_t Nanoseconds(const google::protobuf::Duration& duration) {
  return duration.seconds() * 1'000'000'000 + duration.nanos();
}

std::string LastPart(const std::string& name) { return name.substr(name.rfind('/') + 1); }

}  // namespace

void Bill(hearth::v1::Invocation* invocation) {
  const auto& host = invocation->usage().host();
  const int64_t execution_ns = std::max<int64_t>(0, Nanoseconds(invocation->timing().execution()));
  const int64_t duration_ms = (execution_ns + 999'999) / 1'000'000;
  auto* billed = invocation->mutable_usage()->mutable_billed();
  billed->set_duration_ms(duration_ms);
  billed->set_memory_mib_ms(duration_ms * host.memory_mib());
  billed->set_cpu_ns(std::max<int64_t>(0, host.cpu_ns()));
  billed->set_invocations(1);
}

void AddUsage(const hearth::v1::Usage& usage, hearth::v1::Usage* sum) {
  auto* host = sum->mutable_host();
  host->set_wall_ns(SaturatingAdd(host->wall_ns(), usage.host().wall_ns()));
  host->set_cpu_ns(SaturatingAdd(host->cpu_ns(), usage.host().cpu_ns()));
  host->set_memory_mib(std::max(host->memory_mib(), usage.host().memory_mib()));
  host->set_request_bytes(SaturatingAdd(host->request_bytes(), usage.host().request_bytes()));
  host->set_response_bytes(SaturatingAdd(host->response_bytes(), usage.host().response_bytes()));
  host->set_boot_cpu_ns(SaturatingAdd(host->boot_cpu_ns(), usage.host().boot_cpu_ns()));
  auto* guest = sum->mutable_guest();
  guest->set_wall_ns(SaturatingAdd(guest->wall_ns(), usage.guest().wall_ns()));
  guest->set_user_cpu_ns(SaturatingAdd(guest->user_cpu_ns(), usage.guest().user_cpu_ns()));
  guest->set_system_cpu_ns(SaturatingAdd(guest->system_cpu_ns(), usage.guest().system_cpu_ns()));
  guest->set_peak_memory_bytes(
      std::max(guest->peak_memory_bytes(), usage.guest().peak_memory_bytes()));
  guest->set_read_bytes(SaturatingAdd(guest->read_bytes(), usage.guest().read_bytes()));
  guest->set_written_bytes(SaturatingAdd(guest->written_bytes(), usage.guest().written_bytes()));
  auto* billed = sum->mutable_billed();
  billed->set_duration_ms(SaturatingAdd(billed->duration_ms(), usage.billed().duration_ms()));
  billed->set_memory_mib_ms(SaturatingAdd(billed->memory_mib_ms(), usage.billed().memory_mib_ms()));
  billed->set_cpu_ns(SaturatingAdd(billed->cpu_ns(), usage.billed().cpu_ns()));
  billed->set_invocations(SaturatingAdd(billed->invocations(), usage.billed().invocations()));
}

std::string StartLine(const hearth::v1::Invocation& invocation) {
  return absl::StrFormat("START RequestId: %s Version: %s", LastPart(invocation.name()),
                         LastPart(invocation.version()));
}

std::string EndLine(const hearth::v1::Invocation& invocation) {
  return absl::StrFormat("END RequestId: %s", LastPart(invocation.name()));
}

std::string ReportLine(const hearth::v1::Invocation& invocation) {
  const auto& usage = invocation.usage();
  std::string line = absl::StrFormat(
      "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB\t"
      "Max Memory Used: %d MB",
      LastPart(invocation.name()),
      static_cast<double>(Nanoseconds(invocation.timing().execution())) / 1e6,
      usage.billed().duration_ms(), usage.host().memory_mib(),
      SaturatingAdd(usage.guest().peak_memory_bytes(), kBytesOfMib - 1) / kBytesOfMib);
  const int64_t init_ns = Nanoseconds(invocation.timing().init());
  if (init_ns > 0) {
    line += absl::StrFormat("\tInit Duration: %.2f ms", static_cast<double>(init_ns) / 1e6);
  }
  if (invocation.outcome() != hearth::v1::SUCCEEDED) {
    line += absl::StrFormat("\tOutcome: %s", hearth::v1::Outcome_Name(invocation.outcome()));
  }
  return line;
}

}  // namespace hearth::control
