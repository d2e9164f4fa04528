// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/local_node.h"

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/local_node_impl.h"
#include "control-plane/node/names.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

// Threads that pause and end instances; each end takes milliseconds.
constexpr int kTaskThreads = 4;

absl::StatusOr<uint64_t> AvailableMemoryMib() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  uint64_t kib = 0;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib / 1024;
    std::getline(meminfo, unit);
  }
  return absl::InternalError("/proc/meminfo does not tell MemAvailable; set the node's memory");
}

hearth::v1::Instance::State ToProto(InstanceState state) {
  switch (state) {
    case InstanceState::kBooting:
      return hearth::v1::Instance::BOOTING;
    case InstanceState::kInitializing:
      return hearth::v1::Instance::INITIALIZING;
    case InstanceState::kIdle:
      return hearth::v1::Instance::IDLE;
    case InstanceState::kBusy:
      return hearth::v1::Instance::BUSY;
    case InstanceState::kPaused:
      return hearth::v1::Instance::PAUSED;
    case InstanceState::kStopping:
    case InstanceState::kGone:
      return hearth::v1::Instance::STOPPING;
  }
  return hearth::v1::Instance::STATE_UNSPECIFIED;
}

absl::Status Ended() {
  return absl::UnavailableError("the instance was ended while it started: its version is drained");
}

PoolConfig PoolConfigOf(const LocalNodeConfig& config) {
  PoolConfig pool;
  pool.capacity_mib = config.memory_capacity_mib;
  pool.overhead_mib = config.memory_overhead_mib;
  pool.queue_limit = config.queue_limit;
  pool.queue_wait = config.queue_wait;
  pool.idle_pause = config.idle_pause;
  pool.idle_stop = config.idle_stop;
  return pool;
}

}  // namespace

LocalNode::Impl::Impl(LocalNodeConfig node_config, std::unique_ptr<EventLoop> event_loop)
    : config(std::move(node_config)),
      loop(std::move(event_loop)),
      pool(PoolConfigOf(config), this, &timers),
      context{&config, loop.get(), &timers, &pool, &logs},
      loop_thread([this] { loop->Run().IgnoreError(); }) {
  tasks.emplace(kTaskThreads);
}

LocalNode::Impl::~Impl() {
  pool.Close();
  tasks.reset();  // What it ran last have been the ends of instances.
  loop->Stop();
  loop_thread.join();
}

void LocalNode::Impl::PauseMember(PoolMemberPtr member) {
  tasks->Add([member] { static_cast<Instance&>(*member).Pause(); });
}

void LocalNode::Impl::StopMember(PoolMemberPtr member, bool orderly) {
  tasks->Add([this, member, orderly] {
    static_cast<Instance&>(*member).Terminate(orderly);
    pool.Gone(member);
  });
}

absl::StatusOr<std::unique_ptr<HeldInstance>> LocalNode::Impl::Hold(
    const VersionPtr& version, absl::Time deadline, const PrepareProgress& progress,
    const Cancellation& cancellation) {
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(PoolGrant grant,
                   pool.Acquire(
                       version->name, version->memory_mib,
                       [&] { return std::make_shared<Instance>(&context, version, uuids.Next()); },
                       deadline, cancellation));
  auto held = std::make_unique<HeldInstance>(
      &pool, std::static_pointer_cast<Instance>(std::move(grant.member)));
  held->granted = absl::Now();
  held->queued = held->granted - begin;
  if (!grant.is_new) return held;
  held->cold = true;
  RETURN_IF_ERROR(Make(*held, progress, cancellation));
  return held;
}

absl::Status LocalNode::Impl::Make(HeldInstance& held, const PrepareProgress& progress,
                                   const Cancellation& cancellation) {
  const auto tell = [&](hearth::v1::Instance::State state, int percent) {
    if (progress) progress(state, percent);
  };
  Instance& instance = *held.instance;
  held.reusable = false;
  const absl::Time begin = absl::Now();
  tell(hearth::v1::Instance::BOOTING, 0);
  RETURN_IF_ERROR(instance.Boot(cancellation));
  if (!pool.AgentReady(held.instance).ok()) return Ended();
  tell(hearth::v1::Instance::BOOTING, 100);
  const absl::Time booted = absl::Now();
  held.boot = booted - begin;
  tell(hearth::v1::Instance::INITIALIZING, 0);
  RETURN_IF_ERROR(instance.Initialise(cancellation));
  if (!pool.Initialized(held.instance).ok()) return Ended();
  held.init = absl::Now() - booted;
  held.boot_cpu = instance.CpuTime();
  held.reusable = true;
  tell(hearth::v1::Instance::INITIALIZING, 100);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LocalNode>> LocalNode::Create(LocalNodeConfig config) {
  if (!config.backend) return absl::InvalidArgumentError("a node needs a machine backend");
  if (config.memory_capacity_mib == 0) {
    ASSIGN_OR_RETURN(const uint64_t available, AvailableMemoryMib());
    config.memory_capacity_mib = available / 10 * 9;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  return std::unique_ptr<LocalNode>(
      new LocalNode(std::make_unique<Impl>(std::move(config), std::move(loop))));
}

LocalNode::LocalNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalNode::~LocalNode() = default;

absl::StatusOr<PreparedVersion> LocalNode::Prepare(VersionPtr version, PrepareProgress progress,
                                                   const Cancellation& cancellation) {
  const absl::Time deadline = absl::Now() + impl_->config.queue_wait;
  ASSIGN_OR_RETURN(
      PoolGrant grant,
      impl_->pool.Acquire(
          version->name, version->memory_mib,
          [&] { return std::make_shared<Instance>(&impl_->context, version, impl_->uuids.Next()); },
          deadline, cancellation));
  auto instance = std::static_pointer_cast<Instance>(std::move(grant.member));
  absl::Status made;
  PreparedVersion prepared;
  {
    HeldInstance held(&impl_->pool, instance);
    if (grant.is_new) made = impl_->Make(held, progress, cancellation);
    if (made.ok() && cancellation.cancelled()) {
      held.reusable = false;
      made = absl::CancelledError("cancelled");
    }
    prepared = {held.boot, held.init};
  }
  if (made.ok()) return prepared;
  impl_->pool.AwaitGone(instance);
  return made;
}

absl::StatusOr<std::unique_ptr<Reservation>> LocalNode::Reserve(VersionPtr version,
                                                                absl::Time deadline,
                                                                const Cancellation& cancellation) {
  ASSIGN_OR_RETURN(std::unique_ptr<HeldInstance> held,
                   impl_->Hold(version, deadline, nullptr, cancellation));
  return std::unique_ptr<Reservation>(std::move(held));
}

absl::Status LocalNode::Drain(const std::string& prefix, bool force) {
  impl_->pool.Drain(prefix, force);
  return absl::OkStatus();
}

void LocalNode::Watch(NodeObserver* observer) { impl_->logs.Set(observer); }

std::vector<hearth::v1::Instance> LocalNode::ListInstances() {
  std::vector<hearth::v1::Instance> instances;
  for (const PoolEntry& entry : impl_->pool.List()) {
    const auto& instance = static_cast<const Instance&>(*entry.member);
    hearth::v1::Instance& listed = instances.emplace_back();
    listed.set_name(instance.name());
    listed.set_version(instance.version());
    listed.set_state(ToProto(entry.state));
    *listed.mutable_create_time() = ToProto(instance.created());
    listed.set_guest_boot_id(instance.boot_id());
    listed.set_memory_mib(static_cast<int64_t>(instance.memory_mib()));
    listed.set_served(static_cast<int64_t>(entry.served));
  }
  return instances;
}

uint64_t LocalNode::memory_capacity_mib() const { return impl_->config.memory_capacity_mib; }

const BackendCapabilities& LocalNode::capabilities() const { return impl_->capabilities; }

}  // namespace hearth::control
