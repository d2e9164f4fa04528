// SPDX-License-Identifier: Apache-2.0
// What the tests of a node with snapshots share: one version's snapshot, made, awaited and used.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "control-plane/node/testing/node_fixture.h"

namespace hearth::control {

inline constexpr char kVersion[] = "tenants/t/functions/f/versions/1";

inline VersionPtr WithRuntime(const VersionPtr& version, const std::string& digest) {
  auto changed = std::make_shared<VersionDescription>(*version);
  changed->runtime.image.digest = digest;
  return changed;
}

// The images are those of the digests, wherever they lie.
struct FakeImageKeeper final : ImageKeeper {
  absl::Status Keep(const ImageFile&) override { return absl::OkStatus(); }
  absl::StatusOr<ImageFile> Find(const std::string& digest) override {
    if (digest == gone) return absl::NotFoundError("it was not kept");
    return ImageFile{"/kept/" + digest, digest};
  }
  absl::Status Retain(const std::set<std::string>&) override { return absl::OkStatus(); }
  std::string gone = "none";  // The digest of one that was not kept.
};

inline absl::StatusOr<PreparedVersion> Prepare(NodeFixture& fixture,
                                               const Cancellation& cancellation = Cancellation()) {
  return fixture.node().Prepare(fixture.default_version, nullptr, cancellation);
}

// Waits until the version has a snapshot in that state.
inline hearth::v1::Snapshot AwaitSnapshot(NodeFixture& fixture, hearth::v1::Snapshot::State state,
                                          const std::string& not_named = "") {
  while (true) {
    for (const hearth::v1::Snapshot& snapshot : fixture.node().ListSnapshots()) {
      if (snapshot.state() == state && snapshot.name() != not_named) return snapshot;
    }
    std::this_thread::yield();
  }
}

// One that ends is listed until it has: its machine is gone before.
inline void AwaitInstances(NodeFixture& fixture, size_t count) {
  while (fixture.node().ListInstances().size() != count) std::this_thread::yield();
}

// A new snapshot serves before the one that it replaces is deleted.
inline void AwaitOneStored(NodeFixture& fixture) {
  while (fixture.disk->size() != 1) std::this_thread::yield();
}

inline hearth::v1::StartKind StartOf(NodeFixture& fixture, VersionPtr version = nullptr) {
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink, std::move(version));
  INFO(report.status());
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::SUCCEEDED);
  return report->invocation.start_kind();
}

}  // namespace hearth::control
