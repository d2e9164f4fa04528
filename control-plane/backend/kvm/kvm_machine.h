// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "control-plane/backend/kvm/vmm_process.h"
#include "control-plane/backend/machine_backend.h"

namespace hearth::control {

// The machine in one hearth-vmm process.
class KvmMachine final : public Machine {
 public:
  KvmMachine(std::shared_ptr<VmmProcess> process, uint32_t memory_mib,
             absl::Duration answer_timeout)
      : process_(std::move(process)), memory_mib_(memory_mib), answer_timeout_(answer_timeout) {}
  // Before others see it.
  void set_origin(MachineOrigin origin) { origin_ = std::move(origin); }
  ~KvmMachine() override { process_->EndByForce(answer_timeout_); }

  absl::Status Start() override;
  absl::StatusOr<UniqueFd> AcceptAgent(absl::Time deadline) override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  absl::Status Save(int state, int memory) override;
  absl::StatusOr<WorkingSet> GetWorkingSet() override;
  absl::StatusOr<MachineStatistics> Statistics() override;
  MachineOrigin origin() const override { return origin_; }
  absl::StatusOr<absl::Duration> CpuTime() override { return process_->CpuTime(); }
  void Kill() override { process_->Kill(); }
  absl::Status Stop(absl::Time deadline) override;
  void OnExit(std::function<void(const MachineExit&)> callback) override;

 private:
  absl::StatusOr<vmm::v1::Response> Call(VmmProcess::Order order);

  const std::shared_ptr<VmmProcess> process_;
  const uint32_t memory_mib_;
  const absl::Duration answer_timeout_;
  MachineOrigin origin_;
};

// The requests that make machines.
absl::StatusOr<VmmProcess::Order> CreateOrder(MachineSpec spec);
absl::StatusOr<VmmProcess::Order> RestoreOrder(RestoreSpec spec);

}  // namespace hearth::control
