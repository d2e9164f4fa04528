// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/host_memory.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

namespace hearth {
namespace {

constexpr uint64_t kMib = 1024 * 1024;

// A folder with the files of a host of 1000 MiB, of which 600 are available.
struct Host {
  Host() {
    std::string name = std::filesystem::temp_directory_path() / "hearth-memory.XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    root = name;
    Write(
        "/proc/meminfo",
        "MemTotal:        1024000 kB\nMemFree:          102400 kB\nMemAvailable:     614400 kB\n");
  }
  ~Host() { std::filesystem::remove_all(root); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }
  void WriteMib(const std::string& path, uint64_t mib) const {
    Write(path, std::to_string(mib * kMib) + "\n");
  }
  std::string root;
};

void Check(const Host& host, uint64_t available_mib, uint64_t total_mib) {
  const HostMemory memory = ReadHostMemory(host.root);
  CHECK(memory.available == available_mib * kMib);
  CHECK(memory.total == total_mib * kMib);
}

TEST_CASE("host memory: without a cgroup's limit it is the host's") {
  Host host;
  SECTION("no cgroups") {}
  SECTION("version 2, no limit") { host.Write("/sys/fs/cgroup/memory.max", "max\n"); }
  SECTION("version 1, no limit") {
    host.Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  }
  Check(host, 600, 1000);
}

TEST_CASE("host memory: a cgroup's limit, less what is used of it, bounds the host's") {
  Host host;
  SECTION("version 2") {
    host.WriteMib("/sys/fs/cgroup/memory.max", 500);
    host.WriteMib("/sys/fs/cgroup/memory.current", 300);
    host.Write("/sys/fs/cgroup/memory.stat", "anon 7\ninactive_file 104857600\nactive_file 1\n");
  }
  SECTION("version 1") {
    host.WriteMib("/sys/fs/cgroup/memory/memory.limit_in_bytes", 500);
    host.WriteMib("/sys/fs/cgroup/memory/memory.usage_in_bytes", 300);
    host.Write("/sys/fs/cgroup/memory/memory.stat",
               "inactive_file 1\ntotal_inactive_file 104857600\n");
  }
  Check(host, 300, 500);
}

TEST_CASE("host memory: a cgroup may allow more than the host has available") {
  Host host;
  host.WriteMib("/sys/fs/cgroup/memory.max", 900);
  host.WriteMib("/sys/fs/cgroup/memory.current", 100);
  Check(host, 600, 900);
}

TEST_CASE("host memory: a cgroup that is full leaves nothing") {
  Host host;
  host.WriteMib("/sys/fs/cgroup/memory.max", 500);
  host.WriteMib("/sys/fs/cgroup/memory.current", 501);
  Check(host, 0, 500);
}

TEST_CASE("host memory: a host that does not tell has none") {
  Host host;
  std::filesystem::remove_all(host.root + "/proc");
  Check(host, 0, 0);
}

}  // namespace
}  // namespace hearth
