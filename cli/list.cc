// SPDX-License-Identifier: Apache-2.0
// `hearth list`: functions, versions, instances, invocations, runtimes.
#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "cli/pages.h"

namespace hearth::cli {
namespace {

std::string OrDash(const std::string& text) { return text.empty() ? "-" : text; }

// The function, or "-" for all of the tenant's.
std::string ParentOf(const Session& session, const std::string& name) {
  if (name.empty()) return "tenants/" + session.options.tenant + "/functions/-";
  return ParseFunctionOnly(name, session.options.tenant).FunctionName();
}

void ListFunctions(Session& session, const ListOptions& options) {
  hearth::v1::ListFunctionsRequest request;
  request.set_parent("tenants/" + session.options.tenant);
  std::vector<hearth::v1::Function> items;
  try {
    items = AllPages(session, "list functions", options.limit, *session.client().functions,
                     &hearth::v1::FunctionService::Stub::ListFunctions, request,
                     &hearth::v1::ListFunctionsResponse::functions);
  } catch (const CliError& error) {
    // A tenant is made by its first deployment: before it, there is nothing, and no mistake.
    if (error.failure().code != "NOT_FOUND") throw;
  }
  if (session.options.json) return PrintJson(session, "functions", items);
  Table table({"FUNCTION", "LIVE", "LATEST", "CHANGED", "DESCRIPTION"});
  for (const auto& item : items) {
    table.Add({LastSegment(item.name()), OrDash(LastSegment(item.live_version())),
               OrDash(LastSegment(item.latest_version())), FormatTime(item.update_time()),
               item.description()});
  }
  PrintTable(session, table, "There are no functions yet: hearth deploy DIR");
}

void ListVersions(Session& session, const ListOptions& options) {
  if (options.name.empty()) {
    throw UsageError("versions of which function?", {"hearth list versions NAME"});
  }
  hearth::v1::ListVersionsRequest request;
  request.set_parent(ParentOf(session, options.name));
  const auto items =
      AllPages(session, "list the versions of " + options.name, options.limit,
               *session.client().functions, &hearth::v1::FunctionService::Stub::ListVersions,
               request, &hearth::v1::ListVersionsResponse::versions);
  if (session.options.json) return PrintJson(session, "versions", items);
  Table table({"VERSION", "STATE", "RUNTIME", "MEMORY", "TIME-OUT", "INIT", "MADE"});
  for (const auto& item : items) {
    table.Add({LastSegment(item.name()), hearth::v1::Version::State_Name(item.state()),
               item.spec().runtime(), std::to_string(item.spec().memory_mib()) + " MiB",
               FormatDuration(ToSeconds(item.spec().timeout())),
               FormatDuration(ToSeconds(item.init_duration())), FormatTime(item.create_time())});
  }
  PrintTable(session, table, options.name + " has no versions yet: hearth deploy DIR");
}

void ListInstances(Session& session, const ListOptions& options) {
  hearth::v1::ListInstancesRequest request;
  request.set_parent(ParentOf(session, options.name));
  const auto items = AllPages(session, "list instances", options.limit, *session.client().instances,
                              &hearth::v1::InstanceService::Stub::ListInstances, request,
                              &hearth::v1::ListInstancesResponse::instances);
  if (session.options.json) return PrintJson(session, "instances", items);
  Table table({"FUNCTION", "INSTANCE", "VERSION", "STATE", "MEMORY", "SERVED", "SINCE"});
  for (const auto& item : items) {
    table.Add({SegmentOf(item.name(), "functions"), LastSegment(item.name()),
               LastSegment(item.version()), hearth::v1::Instance::State_Name(item.state()),
               std::to_string(item.memory_mib()) + " MiB", std::to_string(item.served()),
               FormatTime(item.create_time())});
  }
  PrintTable(session, table, "0 instances running");
}

void ListInvocations(Session& session, const ListOptions& options) {
  hearth::v1::ListInvocationsRequest request;
  request.set_parent(ParentOf(session, options.name));
  const auto items =
      AllPages(session, "list invocations", options.limit, *session.client().invocations,
               &hearth::v1::InvocationService::Stub::ListInvocations, request,
               &hearth::v1::ListInvocationsResponse::invocations);
  if (session.options.json) return PrintJson(session, "invocations", items);
  Table table({"FUNCTION", "INVOCATION", "OUTCOME", "START", "RUN", "BILLED", "PEAK", "AT"});
  for (const auto& item : items) {
    table.Add(
        {SegmentOf(item.name(), "functions"), LastSegment(item.name()),
         hearth::v1::Outcome_Name(item.outcome()), hearth::v1::StartKind_Name(item.start_kind()),
         FormatDuration(ToSeconds(item.timing().execution())),
         std::to_string(item.usage().billed().duration_ms()) + " ms",
         FormatBytes(item.usage().guest().peak_memory_bytes()), FormatTime(item.start_time())});
  }
  PrintTable(session, table, "Nothing has been invoked yet: hearth invoke NAME");
}

void ListRuntimes(Session& session, const ListOptions& options) {
  hearth::v1::ListRuntimesRequest request;
  const auto items = AllPages(session, "list runtimes", options.limit, *session.client().runtimes,
                              &hearth::v1::RuntimeService::Stub::ListRuntimes, request,
                              &hearth::v1::ListRuntimesResponse::runtimes);
  if (session.options.json) return PrintJson(session, "runtimes", items);
  Table table({"RUNTIME", "INTERFACES", "HANDLER", "DESCRIPTION"});
  for (const auto& item : items) {
    std::string interfaces;
    for (const std::string& one : item.interfaces())
      interfaces += (interfaces.empty() ? "" : ", ") + one;
    table.Add({LastSegment(item.name()), interfaces, item.handler_required() ? "needed" : "-",
               item.description()});
  }
  PrintTable(session, table, "hearthd's image store holds no runtimes");
}

}  // namespace

int List(Session& session, const ListOptions& options) {
  if (options.what == "functions") {
    ListFunctions(session, options);
  } else if (options.what == "versions") {
    ListVersions(session, options);
  } else if (options.what == "instances") {
    ListInstances(session, options);
  } else if (options.what == "invocations") {
    ListInvocations(session, options);
  } else {
    ListRuntimes(session, options);
  }
  return kExitOk;
}

}  // namespace hearth::cli
