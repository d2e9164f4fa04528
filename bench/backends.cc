// SPDX-License-Identifier: Apache-2.0
#include "bench/backends.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/backend/kvm/kvm_backend.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

void AddBackend(const ModeResults* results, bool possible, BackendsRow* row) {
  const std::vector<Sample> none;
  const std::vector<Sample>& samples = results != nullptr ? results->samples : none;
  row->reply.push_back(Percentile(FigureOf(samples, "reply_ms"), 50));
  row->cpu.push_back(Percentile(FigureOf(samples, "vmm_cpu_ms"), 50));
  row->starts.push_back(samples.size());
  row->failures.push_back(results != nullptr ? results->failures.size() : 0);
  row->possible.push_back(possible);
}

const ModeResults* Find(const ColdStartResults& results, const std::string& function, Mode mode) {
  const auto modes = results.functions.find(function);
  if (modes == results.functions.end()) return nullptr;
  const auto found = modes->second.find(mode);
  return found == modes->second.end() ? nullptr : &found->second;
}

}  // namespace

absl::StatusOr<control::BackendCapabilities> CapabilitiesOf(const BackendsOptions& options,
                                                            const std::string& backend) {
  control::KvmBackendConfig config;
  if (backend == config.capabilities.name) return config.capabilities;
  config.capabilities = control::LibvirtCapabilities();
  if (backend != config.capabilities.name) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no backend \"", backend, "\"; there are kvm, libvirt"));
  }
  if (options.libvirt_socket.empty()) return config.capabilities;
  config.launcher_socket = options.libvirt_socket;
  ASSIGN_OR_RETURN(const std::unique_ptr<control::KvmBackend> asked,
                   control::KvmBackend::Create(std::move(config)));
  RETURN_IF_ERROR(asked->ListAlive().status());  // It is connected by then.
  return asked->capabilities();
}

bool CanStart(const control::BackendCapabilities& capabilities, Mode mode) {
  return mode != Mode::kWaiting || capabilities.hot_restore;
}

absl::StatusOr<std::vector<BackendResults>> RunBackends(
    const BackendsOptions& options, const std::function<void(const std::string&)>& progress) {
  std::vector<BackendResults> results(options.backends.size());
  for (size_t i = 0; i < results.size(); ++i) {
    ASSIGN_OR_RETURN(results[i].capabilities, CapabilitiesOf(options, options.backends[i]));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    ColdStartOptions starts = options.starts;
    starts.backend = options.backends[i];
    starts.modes.erase(
        std::remove_if(starts.modes.begin(), starts.modes.end(),
                       [&](Mode mode) { return !CanStart(results[i].capabilities, mode); }),
        starts.modes.end());
    const std::string name = starts.backend + ": ";
    ASSIGN_OR_RETURN(results[i].starts,
                     RunColdStart(starts, [&](const std::string& what) { progress(name + what); }));
  }
  return results;
}

std::optional<double> BackendsRow::Ratio(size_t backend) const {
  if (!reply[0].has_value() || !reply[backend].has_value() || *reply[0] == 0) return std::nullopt;
  return *reply[backend] / *reply[0];
}

std::vector<BackendsRow> RowsOf(const BackendsOptions& options,
                                const std::vector<BackendResults>& results) {
  std::vector<BackendsRow> rows;
  for (const BenchedFunction& function : options.starts.functions) {
    for (const Mode mode : options.starts.modes) {
      BackendsRow row;
      row.function = function.name;
      row.mode = mode;
      for (const BackendResults& of_backend : results) {
        AddBackend(Find(of_backend.starts, function.name, mode),
                   CanStart(of_backend.capabilities, mode), &row);
      }
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

bool AllMeasured(const std::vector<BackendsRow>& rows) {
  for (const BackendsRow& row : rows) {
    for (size_t i = 0; i < row.reply.size(); ++i) {
      if (row.failures[i] > 0 || (row.possible[i] && !row.reply[i].has_value())) return false;
    }
  }
  return !rows.empty();
}

}  // namespace hearth::bench
