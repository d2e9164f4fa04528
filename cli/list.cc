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
  return ParseFunctionRef(name, session.options.tenant).FunctionName();
}

void ListFunctions(Session& session, const ListOptions& options) {
  Client& client = session.client();
  auto items = AllPages<hearth::v1::Function>(
      options.limit, [&](int size, const std::string& token, auto* out) {
        hearth::v1::ListFunctionsRequest request;
        request.set_parent("tenants/" + session.options.tenant);
        request.set_page_size(size);
        request.set_page_token(token);
        hearth::v1::ListFunctionsResponse response;
        const grpc::Status status = client.TryCall([&](grpc::ClientContext* context) {
          return client.functions->ListFunctions(context, request, &response);
        });
        // A tenant is made by its first deployment: before it, there is nothing, and no mistake.
        if (status.error_code() == grpc::StatusCode::NOT_FOUND) return std::string();
        if (!status.ok()) throw CliError(FromStatus(status, "list functions"));
        out->insert(out->end(), response.functions().begin(), response.functions().end());
        return response.next_page_token();
      });
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
  Client& client = session.client();
  auto items = AllPages<hearth::v1::Version>(
      options.limit, [&](int size, const std::string& token, auto* out) {
        hearth::v1::ListVersionsRequest request;
        request.set_parent(ParentOf(session, options.name));
        request.set_page_size(size);
        request.set_page_token(token);
        hearth::v1::ListVersionsResponse response;
        client.Call("list the versions of " + options.name, [&](grpc::ClientContext* context) {
          return client.functions->ListVersions(context, request, &response);
        });
        out->insert(out->end(), response.versions().begin(), response.versions().end());
        return response.next_page_token();
      });
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
  Client& client = session.client();
  auto items = AllPages<hearth::v1::Instance>(
      options.limit, [&](int size, const std::string& token, auto* out) {
        hearth::v1::ListInstancesRequest request;
        request.set_parent(ParentOf(session, options.name));
        request.set_page_size(size);
        request.set_page_token(token);
        hearth::v1::ListInstancesResponse response;
        client.Call("list instances", [&](grpc::ClientContext* context) {
          return client.instances->ListInstances(context, request, &response);
        });
        out->insert(out->end(), response.instances().begin(), response.instances().end());
        return response.next_page_token();
      });
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
  Client& client = session.client();
  auto items = AllPages<hearth::v1::Invocation>(
      options.limit, [&](int size, const std::string& token, auto* out) {
        hearth::v1::ListInvocationsRequest request;
        request.set_parent(ParentOf(session, options.name));
        request.set_page_size(size);
        request.set_page_token(token);
        hearth::v1::ListInvocationsResponse response;
        client.Call("list invocations", [&](grpc::ClientContext* context) {
          return client.invocations->ListInvocations(context, request, &response);
        });
        out->insert(out->end(), response.invocations().begin(), response.invocations().end());
        return response.next_page_token();
      });
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
  Client& client = session.client();
  auto items = AllPages<hearth::v1::Runtime>(
      options.limit, [&](int size, const std::string& token, auto* out) {
        hearth::v1::ListRuntimesRequest request;
        request.set_page_size(size);
        request.set_page_token(token);
        hearth::v1::ListRuntimesResponse response;
        client.Call("list runtimes", [&](grpc::ClientContext* context) {
          return client.runtimes->ListRuntimes(context, request, &response);
        });
        out->insert(out->end(), response.runtimes().begin(), response.runtimes().end());
        return response.next_page_token();
      });
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
