// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <atomic>
#include <thread>
#include <vector>

#include "control-plane/snapshots/testing/test_store.h"
#include "wire/limits.h"

namespace hearth::control {

TEST_CASE("snapshots: what was published is loaded again, by another store too") {
  Place place;
  const SavedTestMachine machine(1, {0, 5, 200, 255});
  std::string uid;
  {
    auto store = OpenStore(place);
    const PublishedSnapshot published = Publish(store.get(), machine);
    uid = published.header.uid();
    CHECK(published.header.format_version() == 1);
    CHECK(published.header.data_bytes() == 4 * kTestPage);
    CHECK(published.header.chunk_bytes() == 4 * kTestPage + 3 * 2);
    CHECK(published.header.state_bytes() == machine.state_bytes.size());
    CHECK(published.header.create_unix_ns() > 0);
    CHECK(published.written_bytes > published.header.chunk_bytes());
    const auto loaded = Load(store.get(), uid);
    CHECK(SameFiles(loaded->memory(), machine.memory.get(), 1 << 20));
  }
  auto store = OpenStore(place);
  const auto loaded = Load(store.get(), uid);
  CHECK(loaded->header().uid() == uid);
  CHECK(loaded->header().version() == "tenants/t1/functions/f/versions/1");
  CHECK(SameFiles(loaded->memory(), machine.memory.get(), 1 << 20));
  CHECK(GetAt(loaded->state(), 0, machine.state_bytes.size()) == machine.state_bytes);
  CHECK(lseek(loaded->memory(), 0, SEEK_END) == 1 << 20);
  CHECK(loaded->working_set()->empty());
  CHECK(store->Describe(uid)->uid() == uid);
  CHECK(place.Incoming() == 0);
}

TEST_CASE("snapshots: loaded memory is sealed and takes only the pages that hold data") {
  Place place;
  auto store = OpenStore(place);
  const std::string uid = PublishUnpinned(store.get(), SavedTestMachine(1, {3, 100}, "t1", 64));
  const auto loaded = Load(store.get(), uid);
  for (const int file : {loaded->memory(), loaded->state()}) {
    CHECK(fcntl(file, F_GET_SEALS) == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    CHECK(pwrite(file, "x", 1, 0) == -1);
    CHECK(mmap(nullptr, kTestPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED);
  }
  CHECK(loaded->resident_bytes() == 3 * kTestPage);  // Two pages, and the state's.
  CHECK(store->ResidentBytes() == 3 * kTestPage);
  // A clone may write to its own.
  void* const clone = mmap(nullptr, kTestPage, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                           loaded->memory(), 3 * kTestPage);
  REQUIRE(clone != MAP_FAILED);
  *static_cast<char*>(clone) = 'x';
  munmap(clone, kTestPage);
}

TEST_CASE("snapshots: a memory of zeros has no chunks") {
  Place place;
  auto store = OpenStore(place);
  const SavedTestMachine machine(1, {});
  PutAt(machine.memory.get(), 0, std::string(2 * kTestPage, '\0'));  // Data that is zero.
  const std::string uid = PublishUnpinned(store.get(), machine);
  CHECK(place.Chunks().empty());
  CHECK(SameFiles(Load(store.get(), uid)->memory(), machine.memory.get(), 1 << 20));
}

TEST_CASE("snapshots: equal chunks of a tenant are stored once, of two tenants apart") {
  Place place;
  auto store = OpenStore(place);
  SavedTestMachine machine(1, {});
  const std::string chunk = TestPage(9, 9);
  for (const uint32_t at : {0, 1, 7}) {
    PutAt(machine.memory.get(), at * limits::kSnapshotChunkBytes, chunk);
  }
  const std::string first = PublishUnpinned(store.get(), machine);
  CHECK(place.Chunks("t1").size() == 1);
  const PublishedSnapshot second = Publish(store.get(), machine);
  CHECK(place.Chunks("t1").size() == 1);
  CHECK(second.header.chunk_bytes() == kTestPage + 2);
  CHECK(second.written_bytes < kTestPage);
  machine.draft.header.set_tenant("t2");
  const std::string other = PublishUnpinned(store.get(), machine);
  REQUIRE(place.Chunks("t2").size() == 1);
  // Nor does a digest tell that they have the same.
  CHECK(std::filesystem::path(*place.Chunks("t1").begin()).filename() !=
        std::filesystem::path(*place.Chunks("t2").begin()).filename());
  for (const std::string& uid : {first, second.header.uid(), other}) {
    CHECK(SameFiles(Load(store.get(), uid)->memory(), machine.memory.get(), 1 << 20));
  }
}

TEST_CASE("snapshots: publishing writes a damaged chunk anew") {
  Place place;
  auto store = OpenStore(place);
  const SavedTestMachine machine(1, {0});
  const std::string first = PublishUnpinned(store.get(), machine);
  WriteAll(*place.Chunks().begin(), "damaged");
  CHECK_FALSE(store->Load(first).ok());
  PublishUnpinned(store.get(), machine);
  CHECK(SameFiles(Load(store.get(), first)->memory(), machine.memory.get(), 1 << 20));
}

TEST_CASE("snapshots: a draft that is none is refused and leaves nothing") {
  Place place;
  auto store = OpenStore(place);
  const auto refused = [&](const SnapshotDraft& draft, const std::string& why) {
    const absl::Status status = store->Publish(draft, Cancellation()).status();
    CHECK(absl::IsInvalidArgument(status));
    CHECK(Says(status, why));
    CHECK(place.Chunks().empty());
    CHECK(place.Incoming() == 0);
  };
  SavedTestMachine machine(1, {1});
  const SnapshotDraft good = machine.draft;
  SnapshotDraft draft = good;
  for (const char* tenant : {"", "a/b", "..", "a b"}) {
    draft.header.set_tenant(tenant);
    refused(draft, "tenant");
  }
  draft = good;
  draft.header.set_memory_mib(0);
  refused(draft, "0 MiB");
  draft.header.set_memory_mib(2);
  refused(draft, "has 1048576 bytes, not 2097152");
  draft = good;
  draft.working_set = {{250, 7, false}};
  refused(draft, "beyond the memory's 256 pages");
  draft = good;
  draft.header.set_version(std::string(limits::kMaxSnapshotHeaderBytes, 'v'));
  refused(draft, "header");
  REQUIRE(ftruncate(machine.state.get(), 0) == 0);
  refused(good, "the saved state has 0 bytes");
  REQUIRE(ftruncate(machine.state.get(), wire::kMaxSavedStateBytes + 1) == 0);
  refused(good, "the saved state has 1048577 bytes");
  REQUIRE(ftruncate(machine.state.get(), wire::kMaxSavedStateBytes) == 0);
  CHECK(store->Publish(good, Cancellation()).ok());
}

TEST_CASE("snapshots: publishing can be cancelled at each step and leaves nothing") {
  Place place;
  const SavedTestMachine machine(1, {1, 30, 60});
  Cancellation* wish = nullptr;
  int left = 0;
  auto store = OpenStore(place, 0, [&](const char*) {
    if (wish && left-- == 0) wish->Cancel();
    return absl::OkStatus();
  });
  int cancelled = 0;
  for (int step = 0;; ++step) {
    Cancellation cancellation;
    wish = &cancellation;
    left = step;
    const auto published = store->Publish(machine.draft, cancellation);
    wish = nullptr;
    if (published.ok()) break;
    ++cancelled;
    CHECK(absl::IsCancelled(published.status()));
    CHECK(place.Chunks().empty());
    CHECK(place.Incoming() == 0);
  }
  CHECK(cancelled >= 10);
}

TEST_CASE("snapshots: a deleted one's chunks go unless another has them") {
  Place place;
  auto store = OpenStore(place);
  const std::string a = PublishUnpinned(store.get(), SavedTestMachine(1, {0, 20, 40}));
  SavedTestMachine machine(1, {0, 20});
  PutAt(machine.memory.get(), 100 * kTestPage, TestPage(2, 100));
  const std::string b = PublishUnpinned(store.get(), machine);
  CHECK(place.Chunks().size() == 4);
  CHECK(store->Delete(a).ok());
  CHECK(place.Chunks().size() == 3);
  CHECK(absl::IsNotFound(store->Delete(a)));
  CHECK(absl::IsNotFound(store->Load(a).status()));
  CHECK(absl::IsNotFound(store->Pin(a).status()));
  CHECK(SameFiles(Load(store.get(), b)->memory(), machine.memory.get(), 1 << 20));
  CHECK(store->Delete(b).ok());
  CHECK(place.Chunks().empty());
  CHECK(store->List()->empty());
  CHECK(place.Incoming() == 0);
}

TEST_CASE("snapshots: a pinned one is not deleted; a held one goes and its memory stays") {
  Place place;
  auto store = OpenStore(place);
  const SavedTestMachine machine(1, {0, 20});
  PublishedSnapshot published = Publish(store.get(), machine);
  const std::string uid = published.header.uid();
  CHECK(absl::IsFailedPrecondition(store->Delete(uid)));
  published.pin.Release();
  {
    const auto pin = store->Pin(uid);
    CHECK(Says(store->Delete(uid), "is pinned"));
  }
  auto held = Load(store.get(), uid);
  CHECK(store->Delete(uid).ok());
  CHECK(place.Chunks().empty());
  CHECK(SameFiles(held->memory(), machine.memory.get(), 1 << 20));
  CHECK(store->ResidentBytes() == held->resident_bytes());
  held.reset();
  CHECK(store->ResidentBytes() == 0);
}

TEST_CASE("snapshots: collecting spares what is wanted, pinned or held") {
  Place place;
  auto store = OpenStore(place);
  const std::string wanted = PublishUnpinned(store.get(), SavedTestMachine(1, {0}));
  PublishedSnapshot pinned = Publish(store.get(), SavedTestMachine(2, {0}));
  const std::string held_uid = PublishUnpinned(store.get(), SavedTestMachine(3, {0}));
  const std::string idle = PublishUnpinned(store.get(), SavedTestMachine(4, {0}));
  Load(store.get(), idle);
  auto held = Load(store.get(), held_uid);
  std::vector<std::string> asked;
  auto result = store->Collect([&](const SnapshotInfo& info) {
    asked.push_back(info.uid);
    return info.uid == wanted;
  });
  REQUIRE(result.ok());
  CHECK(result->removed == std::vector<std::string>{idle});
  CHECK(asked == std::vector<std::string>{wanted, idle});
  CHECK(result->chunks_removed == 1);
  CHECK(result->bytes_freed > kTestPage);
  CHECK(place.Chunks().size() == 3);
  held.reset();
  pinned.pin.Release();
  result = store->Collect(KeepNone);
  REQUIRE(result.ok());
  CHECK(result->removed.size() == 3);
  CHECK(place.Chunks().empty());
  CHECK(place.Incoming() == 0);
}

TEST_CASE("snapshots: chunks are swept beside publishers and none of theirs is lost") {
  Place place;
  auto store = OpenStore(place);
  std::atomic<bool> done = false;
  std::thread collector([&] {
    while (!done) {
      if (!store->Collect(KeepAll).ok()) std::abort();
    }
  });
  // All four publish and delete snapshots that share chunks, so that these come and go.
  std::atomic<int> failures = 0;
  std::vector<SavedTestMachine> machines;
  for (uint32_t i = 0; i < 4; ++i) machines.emplace_back(1, std::set<uint32_t>{0, 20, 40, 60 + i});
  std::vector<std::thread> publishers;
  std::vector<std::string> last(4);
  for (size_t i = 0; i < 4; ++i) {
    publishers.emplace_back([&, i] {
      for (int round = 0; round < 15; ++round) {
        auto published = store->Publish(machines[i].draft, Cancellation());
        if (!published.ok()) {
          ++failures;
          continue;
        }
        const std::string uid = published->header.uid();
        published->pin.Release();
        if (!store->Load(uid).ok()) ++failures;
        if (round < 14 && !store->Delete(uid).ok()) ++failures;
        last[i] = uid;
      }
    });
  }
  for (std::thread& publisher : publishers) publisher.join();
  done = true;
  collector.join();
  CHECK(failures == 0);
  store.reset();
  store = OpenStore(place);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(SameFiles(Load(store.get(), last[i])->memory(), machines[i].memory.get(), 1 << 20));
  }
  REQUIRE(store->Collect(KeepNone).ok());
  CHECK(place.Chunks().empty());
}

TEST_CASE("snapshots: a sweep at each step of publishing takes nothing that is being published") {
  // What it shares with one that is deleted meanwhile, and what is new.
  const SavedTestMachine old_machine(1, {0, 20, 40});
  const SavedTestMachine machine(1, {0, 20, 40, 60, 80});
  bool reached = true;
  for (int step = 0; reached; ++step) {
    INFO(step);
    Place place;
    SnapshotStore* raw = nullptr;
    std::string old_uid;
    int left = step;
    reached = false;
    auto store = OpenStore(place, 0, [&](const char*) {
      if (!raw || left-- != 0) return absl::OkStatus();
      reached = true;
      return raw->Delete(old_uid);
    });
    old_uid = PublishUnpinned(store.get(), old_machine);
    raw = store.get();
    const std::string uid = PublishUnpinned(raw, machine);
    raw = nullptr;
    CHECK(SameFiles(Load(store.get(), uid)->memory(), machine.memory.get(), 1 << 20));
    if (reached) CHECK(place.Chunks().size() == 5);
  }
}

TEST_CASE("snapshots: a sweep that read the manifests before one was published spares its chunks") {
  Place place;
  const SavedTestMachine machine(1, {0, 20, 40});
  SnapshotStore* raw = nullptr;
  std::string uid;
  auto store = OpenStore(place, 0, [&](const char* step) {
    if (raw && uid.empty() && std::string(step) == "sweep a tenant's chunks") {
      uid = PublishUnpinned(raw, machine);
    }
    return absl::OkStatus();
  });
  const std::string going = PublishUnpinned(store.get(), SavedTestMachine(2, {0}));
  raw = store.get();
  const auto result = store->Collect([&](const SnapshotInfo& info) { return info.uid != going; });
  REQUIRE(result.ok());
  CHECK(result->removed == std::vector<std::string>{going});
  CHECK(result->chunks_removed == 1);
  REQUIRE_FALSE(uid.empty());
  CHECK(SameFiles(Load(store.get(), uid)->memory(), machine.memory.get(), 1 << 20));
  // Only for as long as that sweep ran.
  CHECK(store->Delete(uid).ok());
  CHECK(place.Chunks().empty());
}

TEST_CASE("snapshots: working sets are replaced and joined, and who holds one sees it") {
  Place place;
  auto store = OpenStore(place);
  SavedTestMachine machine(1, {0});
  machine.draft.working_set = {{0, 4, false}};
  const std::string uid = PublishUnpinned(store.get(), machine);
  const auto held = Load(store.get(), uid);
  CHECK(*held->working_set() == WorkingSet{{0, 4, false}});
  CHECK(held->recordings() == 1);
  CHECK(store->AddRecording(uid, {{2, 1, true}, {8, 2, false}}).ok());
  const WorkingSet joined = {{0, 2, false}, {2, 1, true}, {3, 1, false}, {8, 2, false}};
  CHECK(*held->working_set() == joined);
  CHECK(held->recordings() == 2);
  store.reset();
  store = OpenStore(place);
  CHECK(*Load(store.get(), uid)->working_set() == joined);
  CHECK(store->SetWorkingSet(uid, {{9, 1, true}}).ok());
  CHECK(*Load(store.get(), uid)->working_set() == WorkingSet{{9, 1, true}});
  CHECK(Load(store.get(), uid)->recordings() == 1);
  CHECK(absl::IsInvalidArgument(store->SetWorkingSet(uid, {{256, 1, true}})));
  CHECK(absl::IsInvalidArgument(store->AddRecording(uid, {{4, 1, true}, {4, 1, true}})));
  CHECK(absl::IsNotFound(store->SetWorkingSet("018f0000-0000-7000-8000-000000000000", {})));
  CHECK(place.Incoming() == 0);
}

TEST_CASE("snapshots: a damaged working set is passed over, and the next one replaces it") {
  Place place;
  auto store = OpenStore(place);
  SavedTestMachine machine(1, {0});
  machine.draft.working_set = {{0, 4, false}};
  const std::string uid = PublishUnpinned(store.get(), machine);
  const std::string other = PublishUnpinned(store.get(), machine);
  const std::string path = place.FileOf(uid, "working-set");
  const std::string good = ReadAll(path);
  std::string altered = good;
  altered.back() ^= 1;
  for (const std::string& bytes : {altered, good.substr(0, good.size() - 1), std::string(),
                                   std::string(limits::kMaxWorkingSetFileBytes + 1, 'x'),
                                   ReadAll(place.FileOf(other, "working-set"))}) {
    WriteAll(path, bytes);
    store->Evict(UINT64_MAX);
    CHECK(Load(store.get(), uid)->working_set()->empty());
  }
  CHECK(store->AddRecording(uid, {{7, 1, false}}).ok());
  store->Evict(UINT64_MAX);
  CHECK(*Load(store.get(), uid)->working_set() == WorkingSet{{7, 1, false}});
}

TEST_CASE("snapshots: the list tells sizes, use and damage") {
  Place place;
  auto store = OpenStore(place);
  const std::string a = PublishUnpinned(store.get(), SavedTestMachine(1, {0, 20}));
  const PublishedSnapshot b = Publish(store.get(), SavedTestMachine(2, {0}));
  const auto held = Load(store.get(), a);
  WriteAll(place.FileOf(b.header.uid(), "state"), "x");
  const auto list = store->List();
  REQUIRE(list.ok());
  REQUIRE(list->size() == 2);
  CHECK((*list)[0].uid == a);
  CHECK((*list)[0].problem.ok());
  CHECK((*list)[0].stored_bytes > 2 * kTestPage);
  CHECK((*list)[0].resident);
  CHECK((*list)[0].in_use);
  CHECK((*list)[0].resident_bytes == 3 * kTestPage);
  CHECK(Says((*list)[1].problem, "state is truncated"));
  CHECK((*list)[1].header.uid() == b.header.uid());
  CHECK_FALSE((*list)[1].resident);
  CHECK((*list)[1].in_use);
}

TEST_CASE(
    "snapshots: a damaged one stops the sweep of what may be its chunks until it is deleted") {
  Place place;
  auto store = OpenStore(place);
  const std::string damaged = PublishUnpinned(store.get(), SavedTestMachine(1, {0}));
  const std::string going = PublishUnpinned(store.get(), SavedTestMachine(2, {0}));
  const std::string file = GENERATE("header", "memory", "mac");
  WriteAll(place.FileOf(damaged, file), "");
  const auto result = store->Collect([&](const SnapshotInfo& info) { return info.uid == damaged; });
  REQUIRE(result.ok());
  CHECK(result->removed == std::vector<std::string>{going});
  REQUIRE(result->problems.size() == 1);
  CHECK(result->problems[0].find(damaged) != std::string::npos);
  CHECK(place.Chunks().size() == 2);
  CHECK(store->Delete(damaged).ok());
  CHECK(place.Chunks().empty());
}

TEST_CASE("snapshots: the store is one process's, and so is its key") {
  Place place;
  struct stat info = {};
  std::string key;
  {
    auto store = OpenStore(place);
    const absl::Status second = SnapshotStore::Open({.directory = place.name}).status();
    CHECK(absl::IsFailedPrecondition(second));
    CHECK(Says(second, "another process"));
    REQUIRE(stat(place.Path("key").c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    key = ReadAll(place.Path("key"));
    CHECK(key.size() == 32);
    PublishUnpinned(store.get(), SavedTestMachine(1, {0}));
  }
  const auto refused = [&](const std::string& why) {
    const absl::Status status = SnapshotStore::Open({.directory = place.name}).status();
    CHECK(Says(status, why));
  };
  REQUIRE(chmod(place.Path("key").c_str(), 0640) == 0);
  refused("mode 0600");
  REQUIRE(chmod(place.Path("key").c_str(), 0600) == 0);
  WriteAll(place.Path("key"), key.substr(1));
  refused("has 31 bytes, not 32");
  WriteAll(place.Path("key"), key + "x");
  refused("has 33 bytes; at most 32");
  std::filesystem::remove(place.Path("key"));
  refused("is missing: without it none of the 1 snapshots");
}

}  // namespace hearth::control
