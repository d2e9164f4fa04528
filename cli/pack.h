// SPDX-License-Identifier: Apache-2.0
// A folder as a tar archive: the same bytes for the same content, wherever and whenever it is
// packed. Names are sorted; owners, times and all permissions but "executable" are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "vmm/base/unique_fd.h"

namespace hearth::cli {

// Names that are never packed, in whichever folder they are.
inline constexpr const char* kIgnoredNames[] = {".git", ".hg", ".svn", "__pycache__", ".DS_Store"};
// An archive holds at most so many entries; the API's limit on bytes is checked by the server.
inline constexpr size_t kMaxPackedEntries = 100'000;

struct PackedFolder {
  UniqueFd file;  // An unlinked temporary file, at offset 0.
  int64_t size_bytes = 0;
  std::string digest;  // "sha256:" and 64 hex digits.
  int64_t entries = 0;
};

// Packs all of `directory` but hearth.json at its top and kIgnoredNames. `progress` is told the
// bytes packed so far. Throws CliError: not a folder, an unreadable file, a device or socket
// in it, a file that changed meanwhile, no room in $TMPDIR.
PackedFolder PackFolder(const std::string& directory,
                        const std::function<void(int64_t)>& progress = {});

}  // namespace hearth::cli
