// SPDX-License-Identifier: Apache-2.0
// How the node restores instances, and what it learns from them.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/local_node_impl.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// What a backend says of the snapshot, not of the moment.
bool RefusesSnapshot(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
         absl::IsDataLoss(status);
}

}  // namespace

void LocalNode::Impl::MachineMade() {
  size_t want = 0;
  {
    absl::MutexLock lock(&waiting_mutex);
    waiting.MachineMade(absl::Now());
    want = waiting.Want(absl::Now(), available_bytes, total_bytes);
  }
  config.backend->SetWaiting(want);
}

absl::StatusOr<std::vector<MachineDisk>> LocalNode::Impl::DisksFor(
    const VersionDescription& version, const hearth::snapshot::v1::Images& images) {
  const hearth::snapshot::v1::Images present = ImagesOf(config, version);
  std::vector<MachineDisk> disks = DisksOf(config, version);
  if (images.code() != present.code()) {
    return absl::FailedPreconditionError(absl::StrCat("it was made from the code image ",
                                                      images.code(), ", and its version has ",
                                                      present.code()));
  }
  // The disks stand in the order agent, runtime, code.
  const std::tuple<const char*, const std::string&, const std::string&> wanted[] = {
      {"agent", images.agent(), present.agent()}, {"runtime", images.runtime(), present.runtime()}};
  for (size_t i = 0; i < std::size(wanted); ++i) {
    const auto& [name, digest, present_digest] = wanted[i];
    if (digest == present_digest) continue;
    absl::StatusOr<ImageFile> kept = absl::NotFoundError("images are not kept");
    if (config.images != nullptr) kept = config.images->Find(digest);
    if (kept.ok()) {
      disks[i].path = kept->path;
      continue;
    }
    const std::string why = absl::StrCat("the ", name, " image that it was made from, ", digest,
                                         ", cannot be had: ", kept.status().message());
    const bool gone = absl::IsNotFound(kept.status()) || absl::IsDataLoss(kept.status());
    return absl::Status(gone ? absl::StatusCode::kFailedPrecondition : kept.status().code(), why);
  }
  return disks;
}

bool LocalNode::Impl::WasDrained(const HeldInstance& held) const {
  // A forced drain alone stops what is held.
  const InstanceState state = pool.StateOf(held.instance);
  return state == InstanceState::kStopping || state == InstanceState::kGone;
}

void LocalNode::Impl::AddFor(const HeldInstance& held, const VersionPtr& version,
                             BackgroundBuilds& work) {
  work.Add(version);
  // Drain() takes away what was added before it ended this instance; what came later is ours.
  if (WasDrained(held)) {
    work.Cancel([&](const std::string& name) { return name == version->name; });
  }
}

bool LocalNode::Impl::Lease(Instance& instance, const ResidentSnapshot& snapshot) {
  if (capabilities.clones) return true;
  RestoreLeases::Lease lease = leases.Take(snapshot.header().uid());
  if (!lease) return false;
  instance.KeepWhileAlive(std::move(lease));
  return true;
}

absl::Status LocalNode::Impl::MakeRestored(HeldInstance& held,
                                           const std::shared_ptr<const ResidentSnapshot>& snapshot,
                                           const Cancellation& cancellation) {
  Instance& instance = *held.instance;
  held.kind = hearth::v1::RESTORED;
  held.reusable = false;
  const absl::Time begin = SteadyNow();
  absl::StatusOr<std::vector<MachineDisk>> disks =
      DisksFor(instance.description(), snapshot->header().images());
  absl::Status made = disks.status();
  if (made.ok()) {
    made = instance.Restore(snapshot, *std::move(disks), cancellation, &held.restored);
  }
  if (made.ok()) made = instance.Unpark(cancellation, &held.restored);
  if (!made.ok()) {
    if (WasDrained(held)) return EndedWhileStarting();
    if (RefusesSnapshot(made) && !made.GetPayload(kFunctionErrorPayload).has_value()) {
      snapshots->RestoreFailed(snapshot->header(), made, /*verdict=*/true);
    }
    return made;
  }
  if (!pool.AgentReady(held.instance).ok() || !pool.Initialized(held.instance).ok()) {
    return EndedWhileStarting();
  }
  held.restore = held.restored.load + (SteadyNow() - begin);
  held.boot_cpu = instance.CpuTime();
  held.reusable = true;
  snapshots->Restored(snapshot->header(), absl::Now());
  return absl::OkStatus();
}

void LocalNode::Impl::Record(const std::shared_ptr<Instance>& instance) {
  const std::shared_ptr<const ResidentSnapshot> snapshot = instance->snapshot();
  if (!capabilities.hot_restore) return;  // There is nothing that a working set would spare.
  if (!snapshot || !snapshots->BeginRecording(*snapshot, config.working_set_recordings)) return;
  // Off the path: the reply does not wait for it.
  tasks.Add([this, instance, snapshot] {
    const absl::StatusOr<WorkingSet> used = instance->GetWorkingSet();
    // That one instance had ended by then is no loss: the next one is asked.
    if (used.ok()) {
      config.snapshots->AddRecording(snapshot->header().uid(), *used).IgnoreError();
    }
    snapshots->EndRecording(snapshot->header());
  });
}

}  // namespace hearth::control
