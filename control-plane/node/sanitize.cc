// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/sanitize.h"

#include <algorithm>
#include <cstdint>

#include "control-plane/backend/machine_backend.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

constexpr size_t kMaxErrorTypeBytes = 256;
constexpr size_t kMaxErrorMessageBytes = 16 * 1024;
constexpr int kMaxStackFrames = 64;
constexpr size_t kMaxStackFrameBytes = 1024;
constexpr size_t kMaxContentTypeBytes = 256;
// More than a guest can copy in the longest timeout; half a million of them fit a sum.
constexpr int64_t kMaxIoBytes = int64_t{1} << 44;

int64_t Bounded(uint64_t value, int64_t most) {
  return static_cast<int64_t>(std::min(value, static_cast<uint64_t>(most)));
}

}  // namespace

hearth::v1::FunctionError SanitizeError(const agent::v1::FunctionError& error) {
  hearth::v1::FunctionError clean;
  clean.set_type(wire::SanitizeText(error.type(), kMaxErrorTypeBytes));
  clean.set_message(wire::SanitizeText(error.message(), kMaxErrorMessageBytes));
  for (int i = 0; i < std::min(error.stack_trace_size(), kMaxStackFrames); ++i) {
    clean.add_stack_trace(wire::SanitizeText(error.stack_trace(i), kMaxStackFrameBytes));
  }
  clean.set_exit_code(error.exit_code());
  clean.set_signal(error.signal());
  return clean;
}

hearth::v1::GuestUsage SanitizeUsage(const agent::v1::ProcessUsage& usage,
                                     const UsageBounds& bounds) {
  const int64_t wall_ns = absl::ToInt64Nanoseconds(std::max(bounds.wall, absl::ZeroDuration()));
  const int64_t cpu_ns = wall_ns * kVcpus;
  const auto memory_bytes = static_cast<int64_t>(bounds.memory_mib << 20);
  hearth::v1::GuestUsage clean;
  clean.set_wall_ns(Bounded(usage.wall_ns(), wall_ns));
  clean.set_user_cpu_ns(Bounded(usage.user_cpu_ns(), cpu_ns));
  clean.set_system_cpu_ns(Bounded(usage.system_cpu_ns(), cpu_ns));
  clean.set_peak_memory_bytes(Bounded(usage.peak_memory_bytes(), memory_bytes));
  clean.set_read_bytes(Bounded(usage.read_bytes(), kMaxIoBytes));
  clean.set_written_bytes(Bounded(usage.written_bytes(), kMaxIoBytes));
  return clean;
}

std::string SanitizeContentType(absl::string_view content_type) {
  const bool printable = std::all_of(content_type.begin(), content_type.end(),
                                     [](char c) { return c >= 0x20 && c < 0x7F; });
  if (content_type.empty() || content_type.size() > kMaxContentTypeBytes || !printable ||
      content_type.find('/') == absl::string_view::npos) {
    return "application/octet-stream";
  }
  return std::string(content_type);
}

}  // namespace hearth::control
