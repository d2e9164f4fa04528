// SPDX-License-Identifier: Apache-2.0
// How the node makes snapshots: a template is booted, initialised, parked, saved and ended; what
// was saved is stored and restored once, up to parked, which records its working set; then it
// serves.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/local_node_impl.h"
#include "control-plane/node/names.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

using hearth::snapshot::v1::Header;

constexpr absl::Duration kUpkeepInterval = absl::Seconds(5);
// What is freed at once when the host is short of memory.
constexpr uint64_t kEvictedBytes = 256ull << 20;

void Tell(const PrepareProgress& progress, int percent) {
  if (progress) progress(PrepareStage::kSnapshot, percent);
}

}  // namespace

absl::Status EndedWhileStarting() {
  return absl::UnavailableError("the instance was ended while it started: its version is drained");
}

absl::StatusOr<std::unique_ptr<HeldInstance>> LocalNode::Impl::HoldNew(
    const VersionPtr& version, const Cancellation& cancellation, PoolWish wish) {
  ASSIGN_OR_RETURN(PoolGrant grant,
                   pool.Acquire(
                       version->name, version->memory_mib,
                       [&] { return std::make_shared<Instance>(&context, version, uuids.Next()); },
                       SteadyNow() + config.queue_wait, cancellation, wish));
  auto held = std::make_unique<HeldInstance>(
      &pool, std::static_pointer_cast<Instance>(std::move(grant.member)));
  held->reusable = false;
  return held;
}

absl::StatusOr<Header> LocalNode::Impl::Publish(const Instance& instance, const SavedMachine& saved,
                                                const PreparedVersion& prepared, absl::Duration cpu,
                                                const Cancellation& cancellation,
                                                SnapshotPin* pin) {
  const VersionDescription& version = instance.description();
  SnapshotDraft draft;
  Header& header = draft.header;
  header.set_tenant(ParseVersionName(version.name).tenant);
  header.set_version(version.name);
  header.set_version_uid(version.uid);
  *header.mutable_host() = config.host;
  const std::string vmm_version = instance.origin().vmm_version;
  if (!vmm_version.empty()) header.mutable_host()->set_vmm_version(vmm_version);
  *header.mutable_images() = ImagesOf(config, version);
  header.set_memory_mib(version.memory_mib);
  header.set_vcpu_count(kVcpus);
  header.add_devices("serial");
  for (const MachineDisk& disk : DisksOf(config, version)) {
    header.add_devices(absl::StrCat("block ", disk.serial));
  }
  header.add_devices("entropy");
  header.add_devices(config.backend->capabilities().vsock ? "vsock" : "virtio-serial");
  header.set_boot_ns(absl::ToInt64Nanoseconds(prepared.boot));
  header.set_init_ns(absl::ToInt64Nanoseconds(prepared.init));
  header.set_cpu_ns(absl::ToInt64Nanoseconds(cpu));
  draft.state = saved.state.get();
  draft.memory = saved.memory.get();
  if (config.images != nullptr) {
    RETURN_IF_ERROR(config.images->Keep(version.agent.path.empty() ? config.agent : version.agent));
    RETURN_IF_ERROR(config.images->Keep(version.runtime.image));
  }
  ASSIGN_OR_RETURN(PublishedSnapshot published,
                   config.snapshots->Publish(std::move(draft), cancellation));
  *pin = std::move(published.pin);
  return published.header;
}

absl::Status LocalNode::Impl::Try(const VersionPtr& version, const Header& header,
                                  const Cancellation& cancellation) {
  ASSIGN_OR_RETURN(auto snapshot, snapshots->Load(header.uid()));
  ASSIGN_OR_RETURN(std::unique_ptr<HeldInstance> held, HoldNew(version, cancellation));
  const std::shared_ptr<Instance> instance = held->instance;
  if (!Lease(*instance, *snapshot)) return absl::UnavailableError("it is in use already");
  ASSIGN_OR_RETURN(std::vector<MachineDisk> disks, DisksFor(*version, header.images()));
  RestoreTimes times;
  // It stays parked: user code is never run without a request.
  RETURN_IF_ERROR(instance->Restore(snapshot, std::move(disks), cancellation, &times));
  absl::StatusOr<WorkingSet> used = WorkingSet();
  if (capabilities.hot_restore) used = instance->GetWorkingSet();
  held.reset();
  // Until then it has the snapshot to itself.
  if (!capabilities.clones) pool.AwaitGone(instance);
  if (!capabilities.hot_restore) return absl::OkStatus();
  if (!used.ok()) {
    spdlog::warn("the working set of {} is not known: {}", SnapshotName(header),
                 std::string(used.status().message()));
    return absl::OkStatus();
  }
  return config.snapshots->SetWorkingSet(header.uid(), *used);
}

absl::StatusOr<Header> LocalNode::Impl::BuildStored(const VersionPtr& version,
                                                    const PrepareProgress& progress,
                                                    const Cancellation& cancellation,
                                                    PreparedVersion* prepared, SnapshotPin* pin) {
  ASSIGN_OR_RETURN(std::unique_ptr<HeldInstance> held, HoldNew(version, cancellation));
  const std::shared_ptr<Instance> instance = held->instance;
  absl::Status status = Make(*held, progress, cancellation, /*to_be_saved=*/true);
  held->reusable = false;
  prepared->boot = held->boot;
  prepared->init = held->init;
  const absl::Duration cpu = held->boot_cpu;
  const bool made = status.ok();
  absl::StatusOr<SavedMachine> saved = absl::UnknownError("it was not made");
  if (made) {
    Tell(progress, 0);
    saved = instance->Save(cancellation);
  } else {
    saved = status;
  }
  held.reset();
  if (!saved.ok()) {
    pool.AwaitGone(instance);
    // A version whose instances boot and initialise can do without a snapshot.
    if (made && !cancellation.cancelled() &&
        !saved.status().GetPayload(kFunctionErrorPayload).has_value()) {
      prepared->without_because = saved.status();
    }
    return saved.status();
  }
  Tell(progress, 30);
  absl::StatusOr<Header> header = Publish(*instance, *saved, *prepared, cpu, cancellation, pin);
  saved = absl::CancelledError();  // Its memory is not needed any more.
  status = header.status();
  if (status.ok()) {
    Tell(progress, 60);
    status = Try(version, *header, cancellation);
  }
  if (status.ok() && cancellation.cancelled()) status = absl::CancelledError("cancelled");
  if (status.ok()) {
    Tell(progress, 100);
    return header;
  }
  if (header.ok()) {
    pin->Release();
    config.snapshots->Delete(header->uid()).IgnoreError();
  }
  if (cancellation.cancelled()) return absl::CancelledError("cancelled");
  if (!status.GetPayload(kFunctionErrorPayload).has_value()) prepared->without_because = status;
  return status;
}

absl::StatusOr<PreparedVersion> LocalNode::Impl::Build(const VersionPtr& version,
                                                       const PrepareProgress& progress,
                                                       const Cancellation& cancellation) {
  RETURN_IF_ERROR(snapshots->BeginBuild(*version, ImagesOf(config, *version)));
  PreparedVersion prepared;
  SnapshotPin pin;
  const absl::StatusOr<Header> header =
      BuildStored(version, progress, cancellation, &prepared, &pin);
  // Pinned until it is the one that serves.
  const bool serves = snapshots->EndBuild(*version, header, absl::Now());
  pin.Release();
  if (serves) {
    prepared.snapshot = SnapshotName(*header);
    spdlog::info("{} is restored from {} from now on", version->name, prepared.snapshot);
    // Unless it was made from images that have changed meanwhile.
    if (const auto images = snapshots->ReadyImages(version->name)) {
      RetireOld(version->name, *images);
    }
    return prepared;
  }
  if (header.ok()) {
    snapshots->Collect(absl::InfinitePast());  // The version went meanwhile, and so does it.
    return absl::UnavailableError("the version was deleted meanwhile");
  }
  if (prepared.without_because.ok()) return header.status();
  spdlog::warn("{} has no snapshot, its instances boot: {}", version->name,
               std::string(prepared.without_because.message()));
  return prepared;
}

bool LocalNode::Impl::WantsBuild(const VersionDescription& version) {
  return snapshots->WantsBuild(version, ImagesOf(config, version), absl::Now());
}

void LocalNode::Impl::BuildInBackground(const HeldInstance& held) {
  const VersionPtr& version = held.instance->version_ptr();
  if (WantsBuild(*version)) AddFor(held, version, builds);
}

void LocalNode::Impl::RetireOld(const std::string& version,
                                const hearth::snapshot::v1::Images& images) {
  const std::string wanted = images.SerializeAsString();
  pool.Retire([&](const PoolMember& member) {
    return member.version() == version &&
           static_cast<const Instance&>(member).images().SerializeAsString() != wanted;
  });
}

void LocalNode::Impl::RetireIfOld(const Instance& instance) {
  // Until it is restored it counts as what it was to be, and the swap passes it over; whichever of
  // the two comes second here sees the other.
  const auto images = snapshots->ReadyImages(instance.version());
  if (images && images->SerializeAsString() != instance.images().SerializeAsString()) {
    RetireOld(instance.version(), *images);
  }
}

void LocalNode::Impl::Upkeep() {
  // Held to the end: the node's destructor waits for it before it takes things apart.
  absl::MutexLock upkeep_lock(&upkeep_mutex);
  if (ending) return;
  const auto [available, total] = config.host_memory();
  size_t want = 0;
  {
    absl::MutexLock lock(&waiting_mutex);
    available_bytes = available;
    total_bytes = total;
    want = waiting.Want(absl::Now(), available, total);
  }
  config.backend->SetWaiting(want);
  tasks.Add([this, is_short = WaitingPolicy::IsShort(available, total)] {
    if (!snapshots) return;
    if (is_short) config.snapshots->Evict(kEvictedBytes);
    snapshots->Collect(config.snapshot_idle == absl::InfiniteDuration()
                           ? absl::InfinitePast()
                           : absl::Now() - config.snapshot_idle);
  });
  upkeep_timer = timers.After(kUpkeepInterval, [this] { Upkeep(); });
}

absl::StatusOr<hearth::v1::Snapshot> LocalNode::RebuildSnapshot(VersionPtr version,
                                                                PrepareProgress progress,
                                                                const Cancellation& cancellation) {
  if (!impl_->snapshots) {
    return absl::FailedPreconditionError("this hearthd makes no snapshots: --snapshots=off");
  }
  ASSIGN_OR_RETURN(const PreparedVersion prepared, impl_->Build(version, progress, cancellation));
  RETURN_IF_ERROR(prepared.without_because);
  for (hearth::v1::Snapshot& snapshot : ListSnapshots()) {
    if (snapshot.name() == prepared.snapshot) return std::move(snapshot);
  }
  return absl::UnavailableError("the snapshot was deleted meanwhile");
}

void LocalNode::Refresh(VersionPtr version) {
  const hearth::snapshot::v1::Images images = ImagesOf(impl_->config, *version);
  if (!impl_->snapshots) return impl_->RetireOld(version->name, images);
  impl_->snapshots->SetImages(version->name, images);
  // Instances follow when the new snapshot serves; without one that serves, they boot again.
  if (impl_->snapshots->NameOf(version->name).empty()) impl_->RetireOld(version->name, images);
  // One that never had a snapshot gets it when it is first used.
  if (!impl_->snapshots->HasOne(version->name)) return;
  if (impl_->WantsBuild(*version)) impl_->builds.Add(std::move(version));
}

std::vector<hearth::v1::Snapshot> LocalNode::ListSnapshots() {
  return impl_->snapshots ? impl_->snapshots->List() : std::vector<hearth::v1::Snapshot>();
}

std::string LocalNode::SnapshotOf(const std::string& version_name) {
  return impl_->snapshots ? impl_->snapshots->NameOf(version_name) : "";
}

absl::Status LocalNode::DeleteSnapshot(const std::string& name) {
  if (impl_->snapshots) return impl_->snapshots->Delete(name);
  return absl::NotFoundError(absl::StrCat("no snapshot ", name));
}

void LocalNode::ForgetSnapshots(const std::string& prefix) {
  if (impl_->snapshots) impl_->snapshots->Forget(prefix);
}

void LocalNode::RetainSnapshots(const std::set<std::string>& version_uids) {
  if (impl_->snapshots) impl_->snapshots->Retain(version_uids);
}

}  // namespace hearth::control
