// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/machine_state.h"

#include <catch2/catch.hpp>

namespace hearth::vmm {
namespace {

TEST_CASE("machine state: exactly the moves of the table are legal") {
  using S = MachineState;
  using E = MachineEvent;
  // Rows: from created, running, paused, stopping, exited.
  const std::optional<S> no;
  const struct {
    E event;
    std::optional<S> to[5];
  } kTable[] = {{E::kStart, {S::kRunning, no, no, no, no}},
                {E::kPause, {no, S::kPaused, no, no, no}},
                {E::kResume, {no, no, S::kRunning, no, no}},
                {E::kStopOrderly, {no, S::kStopping, S::kStopping, no, no}},
                {E::kSave, {no, no, S::kPaused, no, no}},
                {E::kRestore, {S::kPaused, no, no, no, no}},
                {E::kEnd, {S::kExited, S::kExited, S::kExited, S::kExited, no}}};
  for (const auto& row : kTable) {
    for (int from = 0; from < 5; ++from) {
      CHECK(NextState(static_cast<S>(from), row.event) == row.to[from]);
    }
  }
}

}  // namespace
}  // namespace hearth::vmm
