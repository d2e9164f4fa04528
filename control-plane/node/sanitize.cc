// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/sanitize.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "wire/text.h"

namespace hearth::control {
namespace {

constexpr size_t kMaxErrorTypeBytes = 256;
constexpr size_t kMaxErrorMessageBytes = 16 * 1024;
constexpr int kMaxStackFrames = 64;
constexpr size_t kMaxStackFrameBytes = 1024;
constexpr size_t kMaxContentTypeBytes = 256;

int64_t Clamp(uint64_t value) {
  return static_cast<int64_t>(
      std::min<uint64_t>(value, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
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

hearth::v1::GuestUsage SanitizeUsage(const agent::v1::ProcessUsage& usage) {
  hearth::v1::GuestUsage clean;
  clean.set_wall_ns(Clamp(usage.wall_ns()));
  clean.set_user_cpu_ns(Clamp(usage.user_cpu_ns()));
  clean.set_system_cpu_ns(Clamp(usage.system_cpu_ns()));
  clean.set_peak_memory_bytes(Clamp(usage.peak_memory_bytes()));
  clean.set_read_bytes(Clamp(usage.read_bytes()));
  clean.set_written_bytes(Clamp(usage.written_bytes()));
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
