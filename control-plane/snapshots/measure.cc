// SPDX-License-Identifier: Apache-2.0
// Measures the store on this machine, and makes the fixture of testdata/; no test.
//   snapshots_measure store DIRECTORY MEMORY-FILE
//       publishes a memory of 128 MiB, loads it with the page cache warm and cold, tells times and
//       bytes
//   snapshots_measure chunks MEMORY-FILE
//       what other chunk sizes would store
//   snapshots_measure fixture DIRECTORY
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/keys.h"
#include "control-plane/snapshots/memory_files.h"
#include "control-plane/snapshots/snapshot_store.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << value.status() << "\n";
    std::exit(1);
  }
  return *std::move(value);
}

void Must(const absl::Status& status) {
  if (!status.ok()) {
    std::cerr << status << "\n";
    std::exit(1);
  }
}

UniqueFd FileWith(uint64_t bytes, absl::string_view content, uint64_t offset = 0) {
  UniqueFd file(memfd_create("measure", MFD_CLOEXEC));
  if (ftruncate(file.get(), static_cast<off_t>(bytes)) != 0 ||
      pwrite(file.get(), content.data(), content.size(), static_cast<off_t>(offset)) !=
          static_cast<ssize_t>(content.size())) {
    Must(ErrnoStatus("make a memfd"));
  }
  return file;
}

// Has the kernel drop what it has cached of all files below.
void DropCache(const std::string& folder) {
  sync();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const UniqueFd file(open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    static_cast<void>(posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED));
  }
}

// Wall time for people, and this thread's CPU time, which other processes disturb less.
class Stopwatch {
 public:
  double Milliseconds() const { return absl::ToDoubleMilliseconds(absl::Now() - start_); }
  double CpuMilliseconds() const { return absl::ToDoubleMilliseconds(Cpu() - cpu_); }

 private:
  static absl::Duration Cpu() {
    timespec time = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return absl::DurationFromTimespec(time);
  }
  const absl::Time start_ = absl::Now();
  const absl::Duration cpu_ = Cpu();
};

SnapshotDraft DraftOf(int state, int memory, uint32_t memory_mib) {
  SnapshotDraft draft;
  draft.header.set_tenant("measured");
  draft.header.set_memory_mib(memory_mib);
  draft.state = state;
  draft.memory = memory;
  return draft;
}

int Store(const std::string& directory, const std::string& memory_path) {
  const UniqueFd memory(open(memory_path.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd state = FileWith(30'000, std::string(30'000, 's'));
  struct stat info = {};
  if (!memory || fstat(memory.get(), &info) != 0) Must(ErrnoStatus(memory_path));
  auto store = Must(SnapshotStore::Open({.directory = directory,
                                         .resident_budget_bytes = uint64_t{1} << 30,
                                         .before_step = nullptr}));
  SnapshotDraft draft =
      DraftOf(state.get(), memory.get(), static_cast<uint32_t>(info.st_size >> 20));
  const Stopwatch publish;
  PublishedSnapshot published = Must(store->Publish(draft, Cancellation()));
  std::printf("publish %.1f ms (CPU %.1f), %.1f MB written, %.1f MB of data pages\n",
              publish.Milliseconds(), publish.CpuMilliseconds(),
              static_cast<double>(published.written_bytes) / 1e6,
              static_cast<double>(published.header.data_bytes()) / 1e6);
  const Stopwatch again;
  Must(store->Publish(draft, Cancellation()));
  std::printf("publish again, all chunks known: %.1f ms (CPU %.1f)\n", again.Milliseconds(),
              again.CpuMilliseconds());
  const std::string uid = published.header.uid();
  for (const bool cold : {false, true, true, true, false, false}) {
    store->Evict(UINT64_MAX);
    if (cold) DropCache(directory);
    const Stopwatch load;
    const auto loaded = Must(store->Load(uid));
    std::printf("load, %s: %.1f ms (CPU %.1f), %.1f MB resident\n",
                cold ? "disk cold" : "page cache", load.Milliseconds(), load.CpuMilliseconds(),
                static_cast<double>(loaded->resident_bytes()) / 1e6);
  }
  constexpr int kLoads = 1000;
  const Stopwatch loads;
  for (int i = 0; i < kLoads; ++i) Must(store->Load(uid));
  std::printf("load, resident: CPU %.1f us\n", loads.CpuMilliseconds() * 1000 / kLoads);
  published.pin.Release();
  const Stopwatch collect;
  Must(store->Collect([](const SnapshotInfo&) { return false; }));
  std::printf("collect: %.1f ms (CPU %.1f)\n", collect.Milliseconds(), collect.CpuMilliseconds());
  return 0;
}

int Chunks(const std::string& memory_path) {
  const UniqueFd file(open(memory_path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!file || fstat(file.get(), &info) != 0) Must(ErrnoStatus(memory_path));
  std::string memory(static_cast<size_t>(info.st_size), '\0');
  if (read(file.get(), memory.data(), memory.size()) != info.st_size) Must(ErrnoStatus("read"));
  for (const size_t kib : {4, 16, 32, 64, 128, 256, 1024}) {
    KeyedDigest keyed(SnapshotKey{});
    std::unordered_set<std::string> seen;
    uint64_t bytes = 0;
    for (size_t at = 0; at < memory.size(); at += kib * 1024) {
      const absl::string_view chunk = absl::string_view(memory).substr(at, kib * 1024);
      if (IsZero(chunk) || !seen.insert(std::string(Raw(keyed.Of(chunk)))).second) continue;
      for (size_t page = 0; page < chunk.size(); page += 4096) {
        if (!IsZero(chunk.substr(page, 4096))) bytes += 4096;
      }
    }
    std::printf("%4zu KiB: %6zu chunks, %6.1f MB whole, %6.1f MB without zero pages\n", kib,
                seen.size(), static_cast<double>(seen.size() * kib * 1024) / 1e6,
                static_cast<double>(bytes) / 1e6);
  }
  return 0;
}

int Fixture(const std::string& directory) {
  const std::string page_a(4096, 'A');
  const UniqueFd memory = FileWith(1 << 20, page_a);
  static_cast<void>(!pwrite(memory.get(), page_a.data(), page_a.size(), 18 * 4096));
  const std::string page_z(4096, 'Z');
  static_cast<void>(!pwrite(memory.get(), page_z.data(), page_z.size(), 255 * 4096));
  const UniqueFd state = FileWith(5, "state");
  SnapshotDraft draft = DraftOf(state.get(), memory.get(), 1);
  draft.header.set_tenant("fixture");
  draft.header.set_version("tenants/fixture/functions/hello/versions/1");
  draft.header.set_vcpu_count(1);
  draft.header.add_devices("serial");
  draft.header.mutable_host()->set_cpu_vendor("GenuineIntel");
  draft.header.mutable_images()->set_kernel("sha256:kernel");
  draft.header.set_boot_ns(400'000'000);
  draft.working_set = {{0, 2, false}, {18, 1, true}};
  auto store = Must(SnapshotStore::Open({.directory = directory, .resident_budget_bytes = 0}));
  std::cout << Must(store->Publish(draft, Cancellation())).header.uid() << "\n";
  return 0;
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.size() == 3 && arguments[0] == "store") {
    return Store(arguments[1], arguments[2]);
  }
  if (arguments.size() == 2 && arguments[0] == "chunks") return Chunks(arguments[1]);
  if (arguments.size() == 2 && arguments[0] == "fixture") return Fixture(arguments[1]);
  std::cerr << "snapshots_measure store DIRECTORY MEMORY-FILE | chunks "
               "MEMORY-FILE | fixture DIRECTORY\n";
  return 2;
}

}  // namespace
}  // namespace hearth::control

int main(int argc, char** argv) {
  return hearth::control::Main(std::vector<std::string>(argv + 1, argv + argc));
}
