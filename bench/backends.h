// SPDX-License-Identifier: Apache-2.0
// `hearth-bench backends`: the same starts of the same functions on each machine backend, in one
// table.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/cold_start.h"
#include "control-plane/backend/machine_backend.h"

namespace hearth::bench {

struct BackendsOptions {
  ColdStartOptions starts;  // Its program to prepare is told the backend, too.
  // The first is what the others are held against.
  std::vector<std::string> backends = {"kvm", "libvirt"};
  std::string libvirt_socket;  // hearth-libvirt's. Empty: it is not asked what its host can do.
};

struct BackendResults {
  control::BackendCapabilities capabilities;
  ColdStartResults starts;
};

// What hearthd states of it, which depends on the host for one. INVALID_ARGUMENT: there is no such
// backend.
absl::StatusOr<control::BackendCapabilities> CapabilitiesOf(const BackendsOptions& options,
                                                            const std::string& backend);
// False: its capabilities rule such a start out.
bool CanStart(const control::BackendCapabilities& capabilities, Mode mode);

// One for each backend, in their order.
absl::StatusOr<std::vector<BackendResults>> RunBackends(
    const BackendsOptions& options, const std::function<void(const std::string&)>& progress);

// A line of the table; the vectors have an element for each backend.
struct BackendsRow {
  std::string function;
  Mode mode = Mode::kWarm;
  std::vector<std::optional<double>> reply;  // Medians.
  std::vector<std::optional<double>> cpu;    // Of the machine's process.
  std::vector<size_t> starts;
  std::vector<size_t> failures;
  std::vector<bool> possible;
  // Of the replies; nothing where one is missing.
  std::optional<double> Ratio(size_t backend) const;
};
std::vector<BackendsRow> RowsOf(const BackendsOptions& options,
                                const std::vector<BackendResults>& results);
// Whether every start that a backend is capable of has a figure, and none has failed.
bool AllMeasured(const std::vector<BackendsRow>& rows);

std::string BackendsText(const BackendsOptions& options,
                         const std::vector<BackendResults>& results);
nlohmann::json BackendsJson(const BackendsOptions& options,
                            const std::vector<BackendResults>& results);

}  // namespace hearth::bench
