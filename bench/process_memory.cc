// SPDX-License-Identifier: Apache-2.0
#include "bench/process_memory.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace hearth::bench {

namespace {

struct Mapping {
  uint64_t begin = 0;
  uint64_t end = 0;
  int64_t rss = 0;
  int64_t private_clean = 0;
  int64_t private_dirty = 0;
  int64_t pss = 0;
  bool is_guest = false;
};

std::vector<Mapping> ReadMappings(std::istream& smaps) {
  std::vector<Mapping> mappings;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char permissions[8];
    if (std::sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, permissions) == 3) {
      mappings.push_back({begin, end});
      continue;
    }
    char name[64];
    long kib = 0;
    if (mappings.empty() || std::sscanf(line.c_str(), "%63[^:]: %ld kB", name, &kib) != 2) continue;
    const std::string field = name;
    const int64_t bytes = int64_t{kib} * 1024;
    if (field == "Rss") mappings.back().rss = bytes;
    if (field == "Private_Clean") mappings.back().private_clean = bytes;
    if (field == "Private_Dirty") mappings.back().private_dirty = bytes;
    if (field == "Pss") mappings.back().pss = bytes;
  }
  return mappings;
}

// Marks the guest's RAM: one mapping that is large enough, or adjoining ones that are together
// exactly as large, for a VMM may map a kernel's file into the middle.
bool MarkGuest(std::vector<Mapping>* mappings, uint64_t guest_ram_bytes) {
  bool found = false;
  for (Mapping& mapping : *mappings) {
    mapping.is_guest = mapping.end - mapping.begin >= guest_ram_bytes;
    found = found || mapping.is_guest;
  }
  for (size_t first = 0; !found && first < mappings->size(); ++first) {
    for (size_t last = first; last < mappings->size(); ++last) {
      if (last > first && (*mappings)[last].begin != (*mappings)[last - 1].end) break;
      if ((*mappings)[last].end - (*mappings)[first].begin != guest_ram_bytes) continue;
      for (size_t i = first; i <= last; ++i) (*mappings)[i].is_guest = true;
      found = true;
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<ProcessMemory> ParseSmaps(std::istream& smaps, int64_t guest_ram_bytes) {
  std::vector<Mapping> mappings = ReadMappings(smaps);
  if (!MarkGuest(&mappings, static_cast<uint64_t>(guest_ram_bytes))) {
    return absl::NotFoundError("no mapping is as large as the guest's RAM");
  }
  ProcessMemory memory;
  for (const Mapping& mapping : mappings) {
    if (mapping.is_guest) {
      memory.guest_bytes += mapping.rss;
      continue;
    }
    memory.private_bytes += mapping.private_clean + mapping.private_dirty;
    memory.dirty_bytes += mapping.private_dirty;
    memory.pss_bytes += mapping.pss;
  }
  return memory;
}

absl::StatusOr<ProcessMemory> ReadProcessMemory(pid_t pid, int64_t guest_ram_bytes) {
  const std::string path = "/proc/" + std::to_string(pid) + "/smaps";
  std::ifstream file(path);
  if (!file) return ErrnoStatus(path);
  return ParseSmaps(file, guest_ram_bytes);
}

}  // namespace hearth::bench
