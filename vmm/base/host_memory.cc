// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/host_memory.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/numbers.h"

namespace hearth {
namespace {

// The files of a cgroup's memory controller. Page cache that is long unused is given back when
// memory is needed, so it does not count as used.
struct Controller {
  const char* limit;
  const char* used;
  const char* statistics;
  const char* unused_cache;
};
constexpr Controller kControllers[] = {
    {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
     "inactive_file"},
    {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"}};

// The number behind `key`, 0 when there is none; the first word's without a key.
uint64_t ReadNumber(const std::string& path, const std::string& key = "") {
  std::ifstream file(path);
  std::string word, rest;
  while (!key.empty() && file >> word && word != key) std::getline(file, rest);
  uint64_t number = 0;
  return file >> word && absl::SimpleAtoi(word, &number) ? number : 0;
}

}  // namespace

HostMemory ReadHostMemory(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  HostMemory memory;
  memory.available = ReadNumber(meminfo, "MemAvailable:") * 1024;
  memory.total = ReadNumber(meminfo, "MemTotal:") * 1024;
  for (const Controller& controller : kControllers) {
    const uint64_t limit = ReadNumber(root + controller.limit);  // 0: "max", or no such version.
    if (limit == 0 || limit >= memory.total) continue;
    const uint64_t used = ReadNumber(root + controller.used);
    const uint64_t cache = ReadNumber(root + controller.statistics, controller.unused_cache);
    const uint64_t needed = used - std::min(cache, used);
    memory.total = limit;
    memory.available = std::min(memory.available, limit - std::min(needed, limit));
  }
  return memory;
}

}  // namespace hearth
