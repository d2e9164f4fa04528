// SPDX-License-Identifier: Apache-2.0
// The ways in which an instance may start, told by what hearthd says, and an invocation's stations.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/client.h"
#include "bench/samples.h"

namespace hearth::bench {

enum class Mode {
  kColdBoot,  // No snapshot.
  kColdDisk,  // As kStore, with the store's files out of the page cache.
  kStore,     // Memory not resident; a new VMM process.
  kResident,  // Memory resident; a new VMM process.
  kWaiting,   // Memory resident; a VMM process that waited.
  kRestored,  // Any of these restores: for backends that differ in them.
  kWarm,      // An instance that had served.
};

// In the order of the table, slowest first.
inline constexpr Mode kModes[] = {Mode::kColdBoot, Mode::kColdDisk, Mode::kStore, Mode::kResident,
                                  Mode::kWaiting,  Mode::kRestored, Mode::kWarm};

// "cold-boot", "cold-disk", "store", "resident", "waiting", "restored", "warm".
const char* NameOf(Mode mode);
absl::StatusOr<Mode> ModeOf(absl::string_view name);

// What the reply says: "restored, memory resident, into a waiting VMM".
std::string DescribeStart(const hearth::v1::Invocation& invocation);
// FAILED_PRECONDITION, with what it was, when the invocation's start was of another kind. Whether
// the disk was cold the reply cannot tell: who measures that evicts, and checks that.
absl::Status CheckStart(Mode mode, const hearth::v1::Invocation& invocation);

struct Station {
  const char* figure;  // In samples; moments counted from the client's sending.
  const char* label;   // What has happened by then.
};
extern const std::vector<Station> kStations;

// The stations that there were, and "vmm_cpu_ms".
Sample StationsOf(const Reply& reply);

}  // namespace hearth::bench
