// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/local_node.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/local_node_impl.h"
#include "control-plane/node/names.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// Threads that pause and end instances; each end takes milliseconds.
constexpr int kTaskThreads = 4;

hearth::v1::Instance::State StateToProto(InstanceState state) {
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

// The VMM is a program of its own, which may have been updated alone.
void LearnVmmVersion(LocalNodeConfig& config) {
  const absl::StatusOr<std::string> version = config.backend->VmmVersion();
  if (version.ok() && !version->empty()) {
    config.host.set_vmm_version(*version);
  } else if (!version.ok() && !absl::IsUnimplemented(version.status())) {
    spdlog::warn("no VMM tells its version, it is taken for {}: {}", config.host.vmm_version(),
                 std::string(version.status().message()));
  }
}

PoolConfig PoolConfigOf(const LocalNodeConfig& config) {
  PoolConfig pool;
  pool.capacity_mib = config.memory_capacity_mib;
  pool.overhead_mib = config.memory_overhead_mib;
  pool.max_instances = config.max_instances;
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
      tasks(kTaskThreads),
      pool(PoolConfigOf(config), this, &timers),
      context{&config, loop.get(), &timers, &pool, &logs},
      loop_thread([this] { loop->Run().IgnoreError(); }),
      builds(config.background_builds,
             [this](const VersionPtr& version, const Cancellation& cancellation) {
               // Asked for by several at once, it may have been made meanwhile.
               if (!WantsBuild(*version)) return;
               Build(version, nullptr, cancellation).status().IgnoreError();
             }),
      ahead(instances_ahead > 0 ? 1 : 0,
            [this](const VersionPtr& version, const Cancellation& cancellation) {
              MakeAhead(version, cancellation);
            }) {}

LocalNode::Impl::~Impl() {
  Timers::Id timer = 0;
  {
    absl::MutexLock lock(&upkeep_mutex);
    ending = true;
    timer = upkeep_timer;
  }
  timers.Cancel(timer);
  builds.Stop();
  ahead.Stop();
  pool.Close();
  tasks.Stop();  // What it ran last have been the ends of instances.
  loop->Stop();
  loop_thread.join();
}

void LocalNode::Impl::CancelBackground(const std::string& prefix) {
  const auto below = [&](const std::string& version) { return IsBelow(version, prefix); };
  builds.Cancel(below);
  ahead.Cancel(below);
}

void LocalNode::Impl::PauseMember(PoolMemberPtr member) {
  tasks.Add([member] { static_cast<Instance&>(*member).Pause(); });
}

void LocalNode::Impl::StopMember(PoolMemberPtr member, bool orderly) {
  tasks.Add([this, member, orderly] {
    static_cast<Instance&>(*member).Terminate(orderly);
    pool.Gone(member);
  });
}

absl::StatusOr<std::unique_ptr<HeldInstance>> LocalNode::Impl::Hold(
    const VersionPtr& version, absl::Time deadline, const PrepareProgress& progress,
    const Cancellation& cancellation) {
  ASSIGN_OR_RETURN(std::unique_ptr<HeldInstance> held,
                   HoldReady(version, deadline, progress, cancellation));
  if (WantsAhead(version->name)) AddFor(*held, version, ahead);
  return held;
}

bool LocalNode::Impl::WantsAhead(const std::string& version) const {
  if (instances_ahead == 0) return false;
  const PoolCount count = pool.CountOf(version);
  return count.held > 1 && count.idle < instances_ahead;
}

void LocalNode::Impl::MakeAhead(const VersionPtr& version, const Cancellation& cancellation) {
  while (!cancellation.cancelled() && WantsAhead(version->name)) {
    const auto held = HoldNew(version, cancellation, PoolWish::kSpare);
    if (!held.ok() || !Make(**held, nullptr, cancellation).ok()) return;
  }
}

absl::StatusOr<std::unique_ptr<HeldInstance>> LocalNode::Impl::HoldReady(
    const VersionPtr& version, absl::Time deadline, const PrepareProgress& progress,
    const Cancellation& cancellation) {
  const absl::Time begin = SteadyNow();
  absl::Status restored;
  std::shared_ptr<const ResidentSnapshot> snapshot;
  for (bool may_restore = snapshots != nullptr;; may_restore = false) {
    ASSIGN_OR_RETURN(
        PoolGrant grant,
        pool.Acquire(
            version->name, version->memory_mib,
            [&] { return std::make_shared<Instance>(&context, version, uuids.Next()); }, deadline,
            cancellation));
    auto held = std::make_unique<HeldInstance>(
        &pool, std::static_pointer_cast<Instance>(std::move(grant.member)));
    held->granted = SteadyNow();
    held->queued = held->granted - begin;
    if (!grant.is_new) return held;
    if (may_restore) {
      const absl::Time found = SteadyNow();
      snapshot = snapshots->Find(*version, absl::Now(), &held->was_resident);
      held->restored.load = SteadyNow() - found;
      if (snapshot && Lease(*held->instance, *snapshot)) {
        restored = MakeRestored(*held, snapshot, cancellation);
        MachineMade();
        if (restored.ok()) {
          RetireIfOld(*held->instance);
          BuildInBackground(*held);  // It may be outdated.
          return held;
        }
        const bool final = cancellation.cancelled() || WasDrained(*held) ||
                           restored.GetPayload(kFunctionErrorPayload).has_value();
        if (final) return restored;
        spdlog::warn("{} could not be restored and is booted instead: {}", version->name,
                     std::string(restored.message()));
        continue;
      }
    }
    const absl::Status made = Make(*held, progress, cancellation);
    MachineMade();
    RETURN_IF_ERROR(made);
    if (snapshots) {
      // That the host makes machines, but none of this snapshot, counts against the snapshot.
      if (!restored.ok()) snapshots->RestoreFailed(snapshot->header(), restored, false);
      RetireIfOld(*held->instance);
      BuildInBackground(*held);
    }
    return held;
  }
}

absl::Status LocalNode::Impl::Make(HeldInstance& held, const PrepareProgress& progress,
                                   const Cancellation& cancellation, bool to_be_saved) {
  const auto tell = [&](PrepareStage stage, int percent) {
    if (progress) progress(stage, percent);
  };
  Instance& instance = *held.instance;
  held.kind = hearth::v1::COLD;
  held.reusable = false;
  const absl::Time begin = SteadyNow();
  tell(PrepareStage::kBoot, 0);
  RETURN_IF_ERROR(instance.Boot(cancellation, to_be_saved));
  if (!pool.AgentReady(held.instance).ok()) return EndedWhileStarting();
  tell(PrepareStage::kBoot, 100);
  const absl::Time booted = SteadyNow();
  held.boot = booted - begin;
  tell(PrepareStage::kInitialise, 0);
  RETURN_IF_ERROR(instance.Initialise(cancellation));
  if (!pool.Initialized(held.instance).ok()) return EndedWhileStarting();
  held.init = SteadyNow() - booted;
  held.boot_cpu = instance.CpuTime();
  held.reusable = true;
  tell(PrepareStage::kInitialise, 100);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LocalNode>> LocalNode::Create(LocalNodeConfig config) {
  if (!config.backend) return absl::InvalidArgumentError("a node needs a machine backend");
  if (!config.host_memory) config.host_memory = [] { return ReadHostMemory(); };
  if (config.memory_capacity_mib == 0) {
    const uint64_t usable_mib = (config.host_memory().available >> 20) / 10 * 9;
    const uint64_t own_mib = usable_mib - std::min(config.set_aside_mib, usable_mib / 2);
    config.memory_capacity_mib =
        static_cast<uint64_t>(static_cast<double>(own_mib) * config.overcommit);
    if (config.memory_capacity_mib == 0) {
      return absl::InternalError("/proc/meminfo does not tell MemAvailable; set the node's memory");
    }
  }
  std::unique_ptr<VersionSnapshots> snapshots;
  if (config.snapshots) {
    LearnVmmVersion(config);
    ASSIGN_OR_RETURN(snapshots, VersionSnapshots::Open(config.snapshots.get(), config.host));
    if (config.images != nullptr) {
      RETURN_IF_ERROR(config.images->Retain(snapshots->ImageDigests()));
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  auto impl = std::make_unique<Impl>(std::move(config), std::move(loop));
  impl->snapshots = std::move(snapshots);
  impl->Upkeep();
  return std::unique_ptr<LocalNode>(new LocalNode(std::move(impl)));
}

LocalNode::LocalNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalNode::~LocalNode() = default;

absl::StatusOr<PreparedVersion> LocalNode::Prepare(VersionPtr version, PrepareProgress progress,
                                                   const Cancellation& cancellation) {
  if (impl_->snapshots) return impl_->Build(version, progress, cancellation);
  ASSIGN_OR_RETURN(std::unique_ptr<HeldInstance> held, impl_->HoldNew(version, cancellation));
  const std::shared_ptr<Instance> instance = held->instance;
  absl::Status made = impl_->Make(*held, progress, cancellation);
  if (made.ok() && cancellation.cancelled()) {
    held->reusable = false;
    made = absl::CancelledError("cancelled");
  }
  PreparedVersion prepared;
  prepared.boot = held->boot;
  prepared.init = held->init;
  held.reset();
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
  impl_->CancelBackground(prefix);
  impl_->pool.Drain(prefix, force);
  impl_->CancelBackground(prefix);  // What was asked for by those that started meanwhile.
  return absl::OkStatus();
}

void LocalNode::Retire(const std::string& version_name) {
  impl_->CancelBackground(version_name);
  // Its snapshots go last: what still starts could make another.
  impl_->pool.BeginDrain(version_name, /*force=*/false, [impl = impl_.get(), version_name] {
    impl->tasks.Add([impl, version_name] {
      if (impl->snapshots) impl->snapshots->Forget(version_name);
    });
  });
}

void LocalNode::Watch(NodeObserver* observer) { impl_->logs.Set(observer); }

std::vector<hearth::v1::Instance> LocalNode::ListInstances() {
  std::vector<hearth::v1::Instance> instances;
  for (const PoolEntry& entry : impl_->pool.List()) {
    const auto& instance = static_cast<const Instance&>(*entry.member);
    hearth::v1::Instance& listed = instances.emplace_back();
    listed.set_name(instance.name());
    listed.set_version(instance.version());
    listed.set_state(StateToProto(entry.state));
    *listed.mutable_create_time() = ToProto(instance.created());
    listed.set_guest_boot_id(instance.boot_id());
    listed.set_memory_mib(static_cast<int64_t>(instance.memory_mib()));
    listed.set_served(static_cast<int64_t>(entry.served));
    listed.set_start_kind(instance.restored() ? hearth::v1::RESTORED : hearth::v1::COLD);
    const hearth::snapshot::v1::Images images = instance.images();
    listed.mutable_images()->set_kernel(images.kernel());
    listed.mutable_images()->set_agent(images.agent());
    listed.mutable_images()->set_runtime(images.runtime());
    listed.mutable_images()->set_code(images.code());
  }
  return instances;
}

uint64_t LocalNode::memory_capacity_mib() const { return impl_->config.memory_capacity_mib; }

size_t LocalNode::max_instances() const { return impl_->config.max_instances; }

const BackendCapabilities& LocalNode::capabilities() const { return impl_->capabilities; }

}  // namespace hearth::control
