// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/testing/fake_backend.h"
#include "control-plane/node/testing/fake_snapshot_store.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

class StringSink final : public ResponseSink {
 public:
  absl::Status Write(std::string piece) override {
    bytes += piece;
    return fail;
  }
  std::string bytes;
  absl::Status fail;
};

inline VersionPtr MakeVersion(const std::string& name, uint32_t memory_mib = 128,
                              absl::Duration timeout = absl::Seconds(60)) {
  auto version = std::make_shared<VersionDescription>();
  version->name = name;
  version->runtime.name = "python3.11";
  version->runtime.arguments = {"/bootstrap"};
  version->memory_mib = memory_mib;
  version->timeout = timeout;
  version->init_timeout = absl::Seconds(60);
  return version;
}

// A node of fake machines, with limits that no test runs into by accident.
struct NodeFixture {
  explicit NodeFixture(FakeScript script = {}) {
    config.backend = std::make_unique<FakeBackend>(std::move(script), world);
    config.memory_capacity_mib = 4 * (128 + 8);
    config.boot_timeout = absl::Seconds(60);
    config.idle_pause = absl::Hours(1);
    config.idle_stop = absl::Hours(2);
    config.timeout_grace = absl::Seconds(60);
    config.cancel_grace = absl::Seconds(60);
    config.queue_wait = absl::Seconds(60);
    config.max_waiting_vmms = 0;
    config.host_memory = [] { return HostMemory{1 << 30, 1 << 30}; };
  }
  // From now on with snapshots, on a disk that outlives the node.
  NodeFixture& WithSnapshots() {
    config.snapshots = std::make_unique<FakeSnapshotStore>(disk);
    return *this;
  }
  LocalNode& node() {
    if (!node_) node_ = *LocalNode::Create(std::move(config));
    return *node_;
  }
  absl::StatusOr<InvocationReport> Invoke(const std::string& payload, StringSink* sink,
                                          VersionPtr version = nullptr,
                                          const Cancellation& cancellation = Cancellation()) {
    if (!version) version = default_version;
    absl::StatusOr<std::unique_ptr<Reservation>> reservation =
        node().Reserve(version, absl::InfiniteFuture(), cancellation);
    if (!reservation.ok()) return reservation.status();
    InvocationRequest request;
    request.id = absl::StrCat("request-", ++requests);
    request.payload = payload;
    request.arrival = SteadyNow();
    return node().Invoke(*std::move(reservation), request, *sink, cancellation);
  }

  std::shared_ptr<FakeDisk> disk = std::make_shared<FakeDisk>();
  std::shared_ptr<FakeWorld> world = std::make_shared<FakeWorld>();
  LocalNodeConfig config;
  VersionPtr default_version = MakeVersion("tenants/t/functions/f/versions/1");
  std::atomic<int> requests{0};

 private:
  std::unique_ptr<LocalNode> node_;
};

inline FakeAnswer Succeed(std::string response) {
  FakeAnswer answer;
  answer.response = std::move(response);
  answer.result.set_outcome(agent::v1::OUTCOME_SUCCEEDED);
  answer.result.set_reusable(true);
  answer.result.set_user_code_started(true);
  return answer;
}

}  // namespace hearth::control
