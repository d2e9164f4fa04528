// SPDX-License-Identifier: Apache-2.0
// `hearth usage`: what ran and what is charged for it, the host's and the guest's figures side by
// side.
#include <chrono>
#include <cstdio>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "vmm/base/saturating.h"

namespace hearth::cli {
namespace {

std::string Milliseconds(int64_t ns) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.1f ms", static_cast<double>(ns) / 1e6);
  return buffer;
}

std::string GbSeconds(const hearth::v1::BilledUsage& billed) {
  // A GB-s is 1024 MiB for a second, as function services reckon it.
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f GB-s",
                static_cast<double>(billed.memory_mib_ms()) / 1024 / 1000);
  return buffer;
}

void AddRow(Table* table, const std::string& name, const hearth::v1::Usage& usage,
            const std::string& failed, const std::string& cold) {
  table->Add(
      {name, std::to_string(usage.billed().invocations()), failed, cold,
       std::to_string(usage.billed().duration_ms()) + " ms", GbSeconds(usage.billed()),
       Milliseconds(usage.host().cpu_ns()),
       Milliseconds(SaturatingAdd(usage.guest().user_cpu_ns(), usage.guest().system_cpu_ns())),
       Milliseconds(usage.host().wall_ns()), Milliseconds(usage.guest().wall_ns()),
       FormatBytes(usage.guest().peak_memory_bytes())});
}

}  // namespace

int ShowUsage(Session& session, const UsageOptions& options) {
  Client& client = session.client();
  hearth::v1::QueryUsageRequest request;
  request.set_parent(options.name.empty()
                         ? "tenants/" + session.options.tenant
                         : ParseFunctionOnly(options.name, session.options.tenant).FunctionName());
  if (options.since_hours > 0) {
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    request.mutable_start_time()->set_seconds(
        static_cast<int64_t>(now - options.since_hours * 3600));
  }
  hearth::v1::QueryUsageResponse response;
  client.Call("ask for usage", [&](grpc::ClientContext* context) {
    return client.usage->QueryUsage(context, request, &response);
  });
  if (session.options.json) {
    session.terminal.out << JsonText(ToJson(response));
    return kExitOk;
  }
  if (response.rows().empty()) {
    if (!session.options.quiet) session.terminal.err << "Nothing has run in that time.\n";
    return kExitOk;
  }
  Table table({"FUNCTION", "RUNS", "FAILED", "COLD", "BILLED", "MEMORY", "CPU HOST", "CPU GUEST",
               "WALL HOST", "WALL GUEST", "PEAK"});
  int64_t all_failed = 0;
  int64_t all_cold = 0;
  for (const auto& row : response.rows()) {
    int64_t failed = 0;
    for (const auto& [outcome, count] : row.outcomes()) {
      if (outcome != "SUCCEEDED") failed += count;
    }
    const auto cold = row.start_kinds().find("COLD");
    const int64_t cold_count = cold == row.start_kinds().end() ? 0 : cold->second;
    all_failed += failed;
    all_cold += cold_count;
    AddRow(&table, LastSegment(row.function()), row.usage(), std::to_string(failed),
           std::to_string(cold_count));
  }
  if (response.rows_size() > 1) {
    AddRow(&table, "all", response.total(), std::to_string(all_failed), std::to_string(all_cold));
  }
  session.terminal.out << table.Render();
  return kExitOk;
}

}  // namespace hearth::cli
