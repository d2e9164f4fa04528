// SPDX-License-Identifier: Apache-2.0
#include "control-plane/pool/instance_state.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <vector>

namespace hearth::control {
namespace {

using S = InstanceState;
using E = InstanceEvent;

TEST_CASE("instance state: every pair of state and event does what the table says") {
  // docs/instance-states.md; what is not listed is an error.
  const std::map<std::pair<S, E>, S> table = {
      {{S::kBooting, E::kAgentReady}, S::kInitializing},
      {{S::kInitializing, E::kInitialized}, S::kIdle},
      {{S::kIdle, E::kReserved}, S::kBusy},
      {{S::kPaused, E::kReserved}, S::kBusy},
      {{S::kBusy, E::kReleased}, S::kIdle},
      {{S::kIdle, E::kPaused}, S::kPaused},
      {{S::kBooting, E::kStop}, S::kStopping},
      {{S::kInitializing, E::kStop}, S::kStopping},
      {{S::kIdle, E::kStop}, S::kStopping},
      {{S::kBusy, E::kStop}, S::kStopping},
      {{S::kPaused, E::kStop}, S::kStopping},
      {{S::kStopping, E::kGone}, S::kGone},
  };
  for (S state :
       {S::kBooting, S::kInitializing, S::kIdle, S::kBusy, S::kPaused, S::kStopping, S::kGone}) {
    for (E event : {E::kAgentReady, E::kInitialized, E::kReserved, E::kReleased, E::kPaused,
                    E::kStop, E::kGone}) {
      INFO(Name(state) << " and " << Name(event));
      const absl::StatusOr<S> next = Transition(state, event);
      const auto expected = table.find({state, event});
      if (expected == table.end()) {
        CHECK(next.status().code() == absl::StatusCode::kInternal);
      } else {
        REQUIRE(next.ok());
        CHECK(*next == expected->second);
      }
    }
  }
}

}  // namespace
}  // namespace hearth::control
