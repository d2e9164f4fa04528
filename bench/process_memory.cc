// SPDX-License-Identifier: Apache-2.0
#include "bench/process_memory.h"

#include <cstdio>
#include <fstream>
#include <string>

namespace hearth::bench {

absl::StatusOr<ProcessMemory> ParseSmaps(std::istream& smaps, int64_t guest_ram_bytes) {
  ProcessMemory memory;
  bool is_guest = false;
  bool guest_seen = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char permissions[8];
    if (std::sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, permissions) == 3) {
      is_guest = static_cast<int64_t>(end - begin) >= guest_ram_bytes && permissions[0] == 'r';
      guest_seen = guest_seen || is_guest;
      continue;
    }
    char name[64];
    long kib = 0;
    if (std::sscanf(line.c_str(), "%63[^:]: %ld kB", name, &kib) != 2) continue;
    const std::string field = name;
    const int64_t bytes = int64_t{kib} * 1024;
    if (is_guest) {
      if (field == "Rss") memory.guest_bytes += bytes;
    } else if (field == "Private_Clean") {
      memory.private_bytes += bytes;
    } else if (field == "Private_Dirty") {
      memory.private_bytes += bytes;
      memory.dirty_bytes += bytes;
    } else if (field == "Pss") {
      memory.pss_bytes += bytes;
    }
  }
  if (!guest_seen) return absl::NotFoundError("no mapping is as large as the guest's RAM");
  return memory;
}

absl::StatusOr<ProcessMemory> ReadProcessMemory(pid_t pid, int64_t guest_ram_bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/smaps";
  std::ifstream file(path);
  if (!file) return ErrnoStatus(path);
  return ParseSmaps(file, guest_ram_bytes);
}

}  // namespace hearth::bench
