// SPDX-License-Identifier: Apache-2.0
// The compatibility rule (docs/snapshots.md): a store written by an earlier Hearth is read by this
// one. testdata/v1 is such a store, made once by `snapshots_measure fixture` and never changed.
#include <sys/stat.h>

#include "control-plane/snapshots/testing/test_store.h"

namespace hearth::control {

TEST_CASE("snapshots: one of format version 1, stored long ago, still loads") {
  Place place;
  std::filesystem::copy(HEARTH_SNAPSHOT_TESTDATA "/v1", place.name,
                        std::filesystem::copy_options::recursive);
  // Version control does not keep the mode.
  REQUIRE(chmod(place.Path("key").c_str(), 0600) == 0);
  auto store = OpenStore(place);
  const auto list = store->List();
  REQUIRE(list.ok());
  REQUIRE(list->size() == 1);
  const SnapshotInfo& info = (*list)[0];
  INFO(info.problem);
  REQUIRE(info.problem.ok());
  CHECK(info.header.format_version() == 1);
  CHECK(info.header.tenant() == "fixture");
  CHECK(info.header.version() == "tenants/fixture/functions/hello/versions/1");
  CHECK(info.header.memory_mib() == 1);
  CHECK(info.header.vcpu_count() == 1);
  CHECK(info.header.host().cpu_vendor() == "GenuineIntel");
  CHECK(info.header.images().kernel() == "sha256:kernel");
  CHECK(info.header.boot_ns() == 400'000'000);
  const auto loaded = Load(store.get(), info.uid);
  CHECK(*loaded->working_set() == WorkingSet{{0, 2, false}, {18, 1, true}});
  CHECK(loaded->recordings() == 1);
  CHECK(GetAt(loaded->state(), 0, 5) == "state");
  for (uint32_t page = 0; page < 256; ++page) {
    // As Fixture() of measure.cc made it.
    const char byte = page == 0 || page == 18 ? 'A' : page == 255 ? 'Z' : '\0';
    REQUIRE(GetAt(loaded->memory(), page * kTestPage, kTestPage) == std::string(kTestPage, byte));
  }
  CHECK(store->Collect(KeepAll)->chunks_removed == 0);
}

}  // namespace hearth::control
