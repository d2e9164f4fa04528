// SPDX-License-Identifier: Apache-2.0
// `hearth describe` and `hearth delete`.
#include <iostream>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"

namespace hearth::cli {
namespace {

std::string InterfaceText(const hearth::v1::FunctionInterface& interface) {
  if (interface.has_runtime_api()) {
    const std::string& handler = interface.runtime_api().handler();
    return "runtime API" + (handler.empty() ? "" : ", handler " + handler);
  }
  if (interface.has_stdio()) {
    std::string text = "stdio,";
    for (const std::string& part : interface.stdio().command()) text += " " + part;
    return text;
  }
  return interface.has_http() ? "HTTP" : "-";
}

hearth::v1::Version GetVersion(Client& client, const std::string& name) {
  hearth::v1::GetVersionRequest request;
  request.set_name(name);
  hearth::v1::Version version;
  client.Call("describe " + name, [&](grpc::ClientContext* context) {
    return client.functions->GetVersion(context, request, &version);
  });
  return version;
}

void PrintVersion(Lines& lines, const hearth::v1::Version& version) {
  const hearth::v1::VersionSpec& spec = version.spec();
  lines.Add("version", LastSegment(version.name()) + ", " +
                           hearth::v1::Version::State_Name(version.state()) + ", made " +
                           FormatTime(version.create_time()));
  lines.Add("runtime", spec.runtime());
  lines.Add("interface", InterfaceText(spec.interface()));
  lines.Add("memory", std::to_string(spec.memory_mib()) + " MiB");
  lines.Add("time-out", FormatDuration(ToSeconds(spec.timeout())));
  lines.Add("init took", FormatDuration(ToSeconds(version.init_duration())));
  std::string environment;
  // Values may be secrets; names are not.
  for (const auto& [name, value] : spec.environment()) {
    environment += (environment.empty() ? "" : ", ") + name;
  }
  lines.Add("environment", environment);
  lines.Add("code", version.code_digest());
  lines.Add("image", version.runtime_digest());
  lines.Add("snapshot",
            version.snapshot().empty() ? "none: instances boot" : LastSegment(version.snapshot()));
}

}  // namespace

void Lines::Add(const std::string& label, const std::string& value) {
  if (value.empty()) return;
  out_ << label << std::string(label.size() < 14 ? 14 - label.size() : 1, ' ') << SafeText(value)
       << "\n";
}

bool Confirmed(const Session& session, const std::string& question) {
  if (!session.terminal.can_ask) {
    throw UsageError("nobody can be asked here whether to delete", {"Say so with --yes."});
  }
  session.terminal.err << question << " [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

int NothingDeleted(const Session& session) {
  if (session.options.json) session.terminal.out << JsonText({{"deleted", nullptr}});
  session.terminal.err << "Nothing was deleted.\n";
  return kExitFailed;
}

std::string VersionOf(Session& session, const FunctionRef& ref) {
  if (!ref.version.empty()) return ref.Name();
  Client& client = session.client();
  hearth::v1::GetAliasRequest request;
  request.set_name(ref.FunctionName() + "/aliases/" + (ref.alias.empty() ? "live" : ref.alias));
  hearth::v1::Alias alias;
  client.Call("find the version that " + request.name() + " names",
              [&](grpc::ClientContext* context) {
                return client.functions->GetAlias(context, request, &alias);
              });
  return alias.version();
}

int Describe(Session& session, const std::string& name) {
  Client& client = session.client();
  const FunctionRef ref = ParseFunctionRef(name, session.options.tenant);
  hearth::v1::GetFunctionRequest request;
  request.set_name(ref.FunctionName());
  hearth::v1::Function function;
  client.Call("describe " + name, [&](grpc::ClientContext* context) {
    return client.functions->GetFunction(context, request, &function);
  });
  hearth::v1::ListAliasesRequest list;  // A function has a few: one page.
  list.set_parent(ref.FunctionName());
  hearth::v1::ListAliasesResponse aliases;
  client.Call("list the aliases of " + name, [&](grpc::ClientContext* context) {
    return client.functions->ListAliases(context, list, &aliases);
  });
  // One that is being made has no live version yet, which is no mistake.
  const bool named = !ref.version.empty() || !ref.alias.empty();
  const std::string version_name = named ? VersionOf(session, ref) : function.live_version();
  hearth::v1::Version version;
  if (!version_name.empty()) version = GetVersion(client, version_name);

  if (session.options.json) {
    nlohmann::json list_json = nlohmann::json::array();
    for (const auto& alias : aliases.aliases()) list_json.push_back(ToJson(alias));
    session.terminal.out << JsonText(
        {{"function", ToJson(function)},
         {"version", version_name.empty() ? nlohmann::json() : ToJson(version)},
         {"aliases", list_json}});
    return kExitOk;
  }
  Lines lines(session.terminal.out);
  lines.Add("function", LastSegment(function.name()));
  lines.Add("description", function.description());
  lines.Add("tenant", ref.tenant);
  lines.Add("uid", function.uid());
  lines.Add("made", FormatTime(function.create_time()));
  for (const auto& alias : aliases.aliases()) {
    lines.Add("alias", LastSegment(alias.name()) + " -> " + LastSegment(alias.version()));
  }
  if (version_name.empty()) {
    lines.Add("version", "none is ready yet");
  } else {
    PrintVersion(lines, version);
  }
  return kExitOk;
}

int Delete(Session& session, const DeleteOptions& options) {
  const FunctionRef ref = ParseFunctionRef(options.name, session.options.tenant);
  if (!options.yes &&
      !Confirmed(session, "Delete " + options.name + "? Its code cannot be brought back.")) {
    return NothingDeleted(session);
  }
  Client& client = session.client();
  google::protobuf::Empty empty;
  if (!ref.version.empty()) {
    hearth::v1::DeleteVersionRequest request;
    request.set_name(ref.Name());
    request.set_request_id(NewUuid());
    client.Call("delete " + options.name, [&](grpc::ClientContext* context) {
      return client.functions->DeleteVersion(context, request, &empty);
    });
  } else if (!ref.alias.empty()) {
    hearth::v1::DeleteAliasRequest request;
    request.set_name(ref.Name());
    request.set_request_id(NewUuid());
    client.Call("delete " + options.name, [&](grpc::ClientContext* context) {
      return client.functions->DeleteAlias(context, request, &empty);
    });
  } else {
    hearth::v1::DeleteFunctionRequest request;
    request.set_name(ref.Name());
    request.set_request_id(NewUuid());
    client.Call("delete " + options.name, [&](grpc::ClientContext* context) {
      return client.functions->DeleteFunction(context, request, &empty);
    });
  }
  if (session.options.json) {
    session.terminal.out << JsonText({{"deleted", ref.Name()}});
  } else if (!session.options.quiet) {
    session.terminal.out << "deleted  " << options.name << "\n";
  }
  return kExitOk;
}

}  // namespace hearth::cli
