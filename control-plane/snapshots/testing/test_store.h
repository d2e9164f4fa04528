// SPDX-License-Identifier: Apache-2.0
// What the store's tests share: a folder of their own, drafts with memory that can be told again.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/snapshot_store.h"
#include "vmm/base/status.h"

namespace hearth::control {

inline constexpr size_t kTestPage = 4096;

// In memory where there is such a folder, for the store syncs whole file systems.
struct Place {
  Place() {
    std::string path = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    path += "/hearth-snapshots-XXXXXX";
    REQUIRE(mkdtemp(path.data()) != nullptr);
    name = path;
  }
  ~Place() {
    std::error_code error;
    std::filesystem::remove_all(name, error);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  std::string Path(const std::string& file) const { return name + "/" + file; }
  std::string FileOf(const std::string& uid, const std::string& file) const {
    return Path("snapshots/" + uid + "/" + file);
  }
  // The chunks of a tenant, or of all, by path.
  std::set<std::string> Chunks(const std::string& tenant = "") const {
    std::set<std::string> paths;
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator it(Path("chunks/" + tenant), error), end;
         it != end; ++it) {
      if (it->is_regular_file()) paths.insert(it->path());
    }
    return paths;
  }
  size_t Incoming() const {
    return std::distance(std::filesystem::directory_iterator(Path("incoming")),
                         std::filesystem::directory_iterator());
  }
  std::string name;
};

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteAll(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  REQUIRE(file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush());
}

// Page `page` of the memory that belongs to `seed`.
inline std::string TestPage(uint32_t seed, uint32_t page) {
  std::string bytes(kTestPage, '\0');
  uint32_t value = seed * 2654435761u + page * 40503u + 1;
  for (char& byte : bytes) {
    value = value * 1664525u + 1013904223u;
    byte = static_cast<char>(value >> 24);
  }
  return bytes;
}

inline UniqueFd Memfd(uint64_t bytes) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  REQUIRE(file);
  REQUIRE(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
  return file;
}

inline void PutAt(int file, uint64_t offset, const std::string& bytes) {
  REQUIRE(pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(bytes.size()));
}

inline std::string GetAt(int file, uint64_t offset, size_t size) {
  std::string bytes(size, '\0');
  REQUIRE(pread(file, bytes.data(), size, static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(size));
  return bytes;
}

// A machine as it was saved: a state that tells the seed, and some pages.
struct SavedTestMachine {
  SavedTestMachine(uint32_t seed, const std::set<uint32_t>& pages, const std::string& tenant = "t1",
                   uint32_t memory_mib = 1)
      : state_bytes("state of " + std::to_string(seed) + std::string(100, '.')),
        state(Memfd(0)),
        memory(Memfd(uint64_t{memory_mib} << 20)) {
    PutAt(state.get(), 0, state_bytes);
    for (const uint32_t page : pages) PutAt(memory.get(), page * kTestPage, TestPage(seed, page));
    draft.header.set_tenant(tenant);
    draft.header.set_version("tenants/" + tenant + "/functions/f/versions/1");
    draft.header.set_memory_mib(memory_mib);
    draft.header.set_vcpu_count(1);
    draft.header.add_devices("serial");
    draft.state = state.get();
    draft.memory = memory.get();
  }
  std::string state_bytes;
  UniqueFd state;
  UniqueFd memory;
  SnapshotDraft draft;
};

inline std::unique_ptr<SnapshotStore> OpenStore(
    const Place& place, uint64_t budget = 64 << 20,
    std::function<absl::Status(const char*)> before_step = nullptr) {
  auto store = SnapshotStore::Open({.directory = place.name,
                                    .resident_budget_bytes = budget,
                                    .before_step = std::move(before_step)});
  INFO(store.status());
  REQUIRE(store.ok());
  return *std::move(store);
}

inline PublishedSnapshot Publish(SnapshotStore* store, const SavedTestMachine& machine) {
  auto published = store->Publish(machine.draft, Cancellation());
  INFO(published.status());
  REQUIRE(published.ok());
  return *std::move(published);
}

// The uid of a published snapshot that nobody pins.
inline std::string PublishUnpinned(SnapshotStore* store, const SavedTestMachine& machine) {
  return Publish(store, machine).header.uid();
}

inline std::shared_ptr<const ResidentSnapshot> Load(SnapshotStore* store, const std::string& uid) {
  auto loaded = store->Load(uid);
  INFO(loaded.status());
  REQUIRE(loaded.ok());
  return *std::move(loaded);
}

inline bool SameFiles(int a, int b, size_t bytes) {
  return GetAt(a, 0, bytes) == GetAt(b, 0, bytes);
}

inline bool Says(const absl::Status& status, const std::string& text) {
  UNSCOPED_INFO(status);
  return status.message().find(text) != absl::string_view::npos;
}

inline bool KeepAll(const SnapshotInfo&) { return true; }
inline bool KeepNone(const SnapshotInfo&) { return false; }

}  // namespace hearth::control
