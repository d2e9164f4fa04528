// SPDX-License-Identifier: Apache-2.0
#include "agent/files.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/base/utf8.h"

namespace hearth::agent {

absl::StatusOr<std::string> ReadSmallFd(int fd) {
  std::string text;
  char buffer[4096];
  while (text.size() < kMaxSmallFileBytes) {
    const ssize_t got = pread(fd, buffer, sizeof(buffer), static_cast<off_t>(text.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus("read");
    if (got == 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("open ", path));
  absl::StatusOr<std::string> text = ReadSmallFd(fd.get());
  if (!text.ok()) return Annotate(text.status(), path);
  return text;
}

absl::Status WriteSmallFile(const std::string& path, absl::string_view text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("open ", path));
  // The kernel's files take a value in one write.
  const ssize_t written = write(fd.get(), text.data(), text.size());
  if (written < 0) return ErrnoStatus(absl::StrCat("write ", path));
  return absl::OkStatus();
}

uint64_t NumberAfter(absl::string_view text, absl::string_view key) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
    if (line.substr(0, key.size()) != key) continue;
    line.remove_prefix(key.size());
    if (line.empty() || (line[0] != ' ' && line[0] != ':')) continue;
    const size_t begin = line.find_first_of("0123456789");
    if (begin == absl::string_view::npos) continue;
    line = line.substr(begin);
    line = line.substr(0, line.find_first_not_of("0123456789"));
    uint64_t number = 0;
    return absl::SimpleAtoi(line, &number) ? number : 0;
  }
  return 0;
}

std::string Utf8(absl::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = Utf8SequenceBytes(text);
    if (out.size() + (length == 0 ? 1 : length) > max_bytes) break;
    if (length == 0) {
      out.push_back('?');
      text.remove_prefix(1);
    } else {
      out.append(text.data(), length);
      text.remove_prefix(length);
    }
  }
  return out;
}

}  // namespace hearth::agent
