// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/operations.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "control-plane/api/errors.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

using google::longrunning::Operation;

// A store whose disk can be full.
class FullStore final : public MetadataStore {
 public:
  explicit FullStore(MetadataStore* store) : store_(store) {}
  absl::Status Write(Body body) override {
    return full ? absl::ResourceExhaustedError("the disk is full") : store_->Write(body);
  }
  absl::Status Read(Body body) override { return store_->Read(body); }
  bool full = false;

 private:
  MetadataStore* const store_;
};

struct Place {
  Place() {
    char path[] = "/tmp/hearth-operations-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    folder = path;
    store = *OpenSqliteMetadata(folder + "/metadata.db");
    full = std::make_unique<FullStore>(store.get());
    REQUIRE(store
                ->Write([](MetadataTransaction& t) {
                  return t.Insert(Kind::kTenant, {"tenants/t", "", "t", "", ""});
                })
                .ok());
  }
  ~Place() { std::filesystem::remove_all(folder); }

  Operation Make(const std::string& id) const {
    Operation operation;
    operation.set_name("tenants/t/operations/00000000-0000-7000-8000-00000000000" + id);
    REQUIRE(store->Write([&](MetadataTransaction& t) { return Operations::Insert(t, operation); })
                .ok());
    return operation;
  }

  std::string folder;
  std::unique_ptr<MetadataStore> store;
  std::unique_ptr<FullStore> full;
};

}  // namespace

TEST_CASE("operations: an end that could not be written is told at once, and written later") {
  Place place;
  Operations operations(place.full.get());
  const Operation first = place.Make("1");
  operations.Start(first, "subject", Cancellation());
  place.full->full = true;
  CHECK_FALSE(
      operations
          .Finish(first.name(), [](MetadataTransaction&, Operation*) { return absl::OkStatus(); })
          .ok());
  int also = 0;
  operations.Abandon(first.name(), absl::DataLossError("lost"), [&](MetadataTransaction&) {
    ++also;
    return absl::OkStatus();
  });
  CHECK(operations.Get(first.name())->error().message() == "lost");
  CHECK(also == 0);

  place.full->full = false;
  operations.Start(place.Make("2"), "subject", Cancellation());
  CHECK(also == 1);
  Operations later(place.store.get());  // It knows only what was written.
  CHECK(later.Get(first.name())->done());
  CHECK(later.Get(first.name())->error().message() == "lost");
  CHECK(operations.Delete(first.name()).ok());
  CHECK(absl::IsNotFound(operations.Get(first.name()).status()));
}

TEST_CASE("operations: an abandoned one that is deleted is gone") {
  Place place;
  Operations operations(place.full.get());
  const Operation operation = place.Make("1");
  operations.Start(operation, "subject", Cancellation());
  operations.Abandon(operation.name(), absl::DataLossError("lost"),
                     [](MetadataTransaction&) { return absl::OkStatus(); });
  CHECK(operations.Delete(operation.name()).ok());
  CHECK(absl::IsNotFound(operations.Get(operation.name()).status()));
}

}  // namespace hearth::control
