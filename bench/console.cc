// SPDX-License-Identifier: Apache-2.0
#include "bench/console.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>

namespace hearth::bench {
namespace {

constexpr int kConsoleTimeoutMs = 120'000;

}  // namespace

absl::StatusOr<ConsolePipe> MakeConsolePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  return ConsolePipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

absl::Status AwaitText(int fd, const std::string& text, const char* who) {
  std::string seen;
  while (text.empty() ? seen.empty() : seen.find(text) == std::string::npos) {
    pollfd entry{fd, POLLIN, 0};
    char buffer[4096];
    if (poll(&entry, 1, kConsoleTimeoutMs) != 1) {
      return absl::DeadlineExceededError(absl::StrCat(who, " never said ", text, " but ", seen));
    }
    const ssize_t count = read(fd, buffer, sizeof buffer);
    if (count <= 0) return absl::DataLossError(absl::StrCat(who, " ended; it said: ", seen));
    seen.append(buffer, static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace hearth::bench
