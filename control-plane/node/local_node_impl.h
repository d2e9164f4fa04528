// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "control-plane/node/instance.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/log_relay.h"
#include "control-plane/node/task_pool.h"
#include "control-plane/pool/pool.h"
#include "control-plane/pool/timers.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/event_loop.h"

namespace hearth::control {

// An instance taken from the pool; gives it back when it goes. One thread at a time.
class HeldInstance final : public Reservation {
 public:
  HeldInstance(Pool* pool, std::shared_ptr<Instance> held)
      : instance(std::move(held)), pool_(pool) {}
  HeldInstance(const HeldInstance&) = delete;
  HeldInstance& operator=(const HeldInstance&) = delete;
  ~HeldInstance() override { pool_->Release(instance, served, reusable && instance->usable()); }

  hearth::v1::StartKind start_kind() const override {
    return cold ? hearth::v1::COLD : hearth::v1::WARM;
  }
  std::string instance_name() const override { return instance->name(); }

  const std::shared_ptr<Instance> instance;
  bool cold = false;  // It was made for this.
  bool served = false;
  bool reusable = true;
  absl::Time granted = absl::InfinitePast();
  absl::Duration queued;
  absl::Duration boot;
  absl::Duration init;
  absl::Duration boot_cpu;

 private:
  Pool* const pool_;
};

class LocalNode::Impl final : public PoolDelegate {
 public:
  Impl(LocalNodeConfig node_config, std::unique_ptr<EventLoop> event_loop);
  ~Impl() override;

  void PauseMember(PoolMemberPtr member) override;
  void StopMember(PoolMemberPtr member, bool orderly) override;

  // An instance of `version` that is ready to serve.
  absl::StatusOr<std::unique_ptr<HeldInstance>> Hold(const VersionPtr& version, absl::Time deadline,
                                                     const PrepareProgress& progress,
                                                     const Cancellation& cancellation);
  // Makes a new instance ready.
  absl::Status Make(HeldInstance& held, const PrepareProgress& progress,
                    const Cancellation& cancellation);

  LocalNodeConfig config;
  const BackendCapabilities capabilities = config.backend->capabilities();
  UuidGenerator uuids;
  LogSink logs;
  const std::unique_ptr<EventLoop> loop;
  std::optional<TaskPool> tasks;
  // Behind the pool it calls back into, so that it goes first.
  Pool pool;
  ThreadTimers timers;
  const InstanceContext context;
  std::thread loop_thread;
};

}  // namespace hearth::control
