// SPDX-License-Identifier: Apache-2.0
// Small files of /proc, /sys and cgroup2, and what a hostile one may hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::agent {

// At most this much is read of any such file.
inline constexpr size_t kMaxSmallFileBytes = 64 * 1024;

absl::StatusOr<std::string> ReadSmallFile(const std::string& path);
absl::StatusOr<std::string> ReadSmallFd(int fd);  // From its beginning, by pread.
absl::Status WriteSmallFile(const std::string& path, absl::string_view text);

// The number after `key` and a blank or colon at the start of a line, as in cpu.stat,
// memory.events, /proc/PID/io and /proc/PID/status; 0 when there is none.
uint64_t NumberAfter(absl::string_view text, absl::string_view key);

// `text` as valid UTF-8 of at most `max_bytes`: every byte that is none becomes "?". Strings of the
// protocol must be UTF-8, or the host's parser refuses the whole frame.
std::string Utf8(absl::string_view text, size_t max_bytes);

}  // namespace hearth::agent
