// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "vmm/base/status.h"

namespace hearth {

// Fills `to` with what the file has from `offset` on. `file` names it in the status: DataLoss when
// it ends before, for it may have shrunk since its size was asked; else what errno says.
inline absl::Status ReadAt(int fd, uint64_t offset, iovec to, absl::string_view file) {
  auto* const data = static_cast<char*>(to.iov_base);
  for (size_t done = 0; done < to.iov_len;) {
    const ssize_t count =
        pread(fd, data + done, to.iov_len - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(absl::StrCat("read ", file));
    if (count == 0) return absl::DataLossError(absl::StrCat(file, " is truncated"));
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace hearth
