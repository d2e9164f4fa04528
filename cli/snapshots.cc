// SPDX-License-Identifier: Apache-2.0
// `hearth snapshots`: what instances are restored from.
#include "absl/strings/match.h"
#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "cli/operation.h"
#include "cli/pages.h"

namespace hearth::cli {
namespace {

using google::longrunning::Operation;
using hearth::v1::Snapshot;

std::vector<Snapshot> AllOf(Session& session, const std::string& parent, int limit) {
  hearth::v1::ListSnapshotsRequest request;
  request.set_parent(parent);
  return AllPages(session, "list snapshots", limit, *session.client().snapshots,
                  &hearth::v1::SnapshotService::Stub::ListSnapshots, request,
                  &hearth::v1::ListSnapshotsResponse::snapshots);
}

// The snapshot that the words mean: by its whole name, or a version's.
Snapshot Find(Session& session, const std::string& name) {
  if (absl::StrContains(name, "/snapshots/")) {
    Client& client = session.client();
    hearth::v1::GetSnapshotRequest request;
    request.set_name(name);
    Snapshot snapshot;
    client.Call("find " + name, [&](grpc::ClientContext* context) {
      return client.snapshots->GetSnapshot(context, request, &snapshot);
    });
    return snapshot;
  }
  const std::string version = VersionOf(session, ParseFunctionRef(name, session.options.tenant));
  for (const Snapshot& snapshot : AllOf(session, version, kPageSize)) {
    if (snapshot.state() != Snapshot::BUILDING) return snapshot;
  }
  Failure failure;
  failure.exit_code = kExitFailed;
  failure.code = "NOT_FOUND";
  failure.message = version + " has no snapshot: its instances boot";
  failure.advice = {"`hearth snapshots rebuild " + name + "` makes one, and says why it cannot."};
  throw CliError(std::move(failure));
}

std::string Pages(int64_t pages) { return FormatBytes(pages * 4096); }

}  // namespace

int ListSnapshots(Session& session, const SnapshotOptions& options) {
  std::string parent = "tenants/" + session.options.tenant + "/functions/-/versions/-";
  if (!options.name.empty()) {
    const FunctionRef ref = ParseFunctionRef(options.name, session.options.tenant);
    const bool all = ref.version.empty() && ref.alias.empty();
    parent = all ? ref.FunctionName() + "/versions/-" : VersionOf(session, ref);
  }
  const std::vector<Snapshot> items = AllOf(session, parent, options.limit);
  if (session.options.json) {
    PrintJson(session, "snapshots", items);
    return kExitOk;
  }
  Table table({"FUNCTION", "VERSION", "SNAPSHOT", "STATE", "MEMORY", "DATA", "WORKING SET",
               "RESIDENT", "RESTORES", "MADE"});
  for (const Snapshot& item : items) {
    const bool building = item.state() == Snapshot::BUILDING;
    table.Add({SegmentOf(item.name(), "functions"), LastSegment(item.version()),
               LastSegment(item.name()), Snapshot::State_Name(item.state()),
               building ? "-" : std::to_string(item.memory_mib()) + " MiB",
               building ? "-" : FormatBytes(item.data_bytes()),
               building ? "-" : Pages(item.working_set_pages()), item.resident() ? "yes" : "no",
               std::to_string(item.restores()), FormatTime(item.create_time())});
  }
  PrintTable(session, table, "There are no snapshots yet: a deployment makes one");
  return kExitOk;
}

int DescribeSnapshot(Session& session, const SnapshotOptions& options) {
  const Snapshot snapshot = Find(session, options.name);
  if (session.options.json) {
    session.terminal.out << JsonText({{"snapshot", ToJson(snapshot)}});
    return kExitOk;
  }
  Lines lines(session.terminal.out);
  lines.Add("snapshot", LastSegment(snapshot.name()));
  lines.Add("version", snapshot.version());
  lines.Add("state", Snapshot::State_Name(snapshot.state()) +
                         (snapshot.detail().empty() ? "" : ", " + snapshot.detail()));
  lines.Add("made", FormatTime(snapshot.create_time()));
  lines.Add("restored",
            std::to_string(snapshot.restores()) + " times since hearthd started" +
                (snapshot.has_use_time() ? ", last at " + FormatTime(snapshot.use_time()) : ""));
  lines.Add("memory", std::to_string(snapshot.memory_mib()) + " MiB, of it " +
                          FormatBytes(snapshot.data_bytes()) + " not zero" +
                          (snapshot.resident() ? ", resident" : ""));
  lines.Add("working set",
            snapshot.working_set_recordings() == 0
                ? ""
                : Pages(snapshot.working_set_pages()) + ", of it " +
                      Pages(snapshot.working_set_written_pages()) + " written, from " +
                      std::to_string(snapshot.working_set_recordings()) + " recordings");
  lines.Add("boot took", FormatDuration(ToSeconds(snapshot.boot_duration())));
  lines.Add("init took", FormatDuration(ToSeconds(snapshot.init_duration())));
  lines.Add("CPU of both", FormatDuration(ToSeconds(snapshot.cpu_duration())));
  lines.Add("kernel", snapshot.images().kernel());
  lines.Add("agent", snapshot.images().agent());
  lines.Add("runtime", snapshot.images().runtime());
  lines.Add("code", snapshot.images().code());
  lines.Add("host", snapshot.host().cpu_model() + ", Linux " + snapshot.host().kernel_release() +
                        ", hearth-vmm " + snapshot.host().vmm_version());
  return kExitOk;
}

int DeleteSnapshot(Session& session, const SnapshotOptions& options) {
  const Snapshot snapshot = Find(session, options.name);
  if (!options.yes && !Confirmed(session, "Delete the snapshot of " + snapshot.version() +
                                              "? Its next instance boots, and makes a new one.")) {
    return NothingDeleted(session);
  }
  Client& client = session.client();
  hearth::v1::DeleteSnapshotRequest request;
  request.set_name(snapshot.name());
  request.set_request_id(NewUuid());
  google::protobuf::Empty empty;
  client.Call("delete " + snapshot.name(), [&](grpc::ClientContext* context) {
    return client.snapshots->DeleteSnapshot(context, request, &empty);
  });
  if (session.options.json) {
    session.terminal.out << JsonText({{"deleted", snapshot.name()}});
  } else if (!session.options.quiet) {
    session.terminal.out << "deleted  " << SafeText(snapshot.name()) << "\n";
  }
  return kExitOk;
}

int RebuildSnapshot(Session& session, const SnapshotOptions& options) {
  Client& client = session.client();
  hearth::v1::RebuildSnapshotRequest request;
  request.set_parent(VersionOf(session, ParseFunctionRef(options.name, session.options.tenant)));
  request.set_request_id(NewUuid());
  const std::string what = "rebuild the snapshot of " + options.name;
  ProgressLine progress(session.terminal);
  const Operation operation =
      RunOperation(session, {what, "rebuild",
                             [&](grpc::ClientContext* context, Operation* started) {
                               return client.snapshots->RebuildSnapshot(context, request, started);
                             },
                             [&](const Operation& so_far) {
                               hearth::v1::RebuildSnapshotMetadata metadata;
                               if (session.options.quiet || !so_far.metadata().UnpackTo(&metadata))
                                 return;
                               progress.Show("rebuild  " + options.name + " ... " +
                                             std::to_string(metadata.percent()) + " %");
                             }});
  progress.Clear();
  if (operation.has_error()) {
    throw CliError(FromRpcStatus(operation.error(), what));
  }
  Snapshot snapshot;
  if (!operation.response().UnpackTo(&snapshot)) {
    throw LocalError("hearthd's answer holds no snapshot; is it of another release?");
  }
  if (session.options.json) {
    session.terminal.out << JsonText({{"snapshot", ToJson(snapshot)}});
  } else if (!session.options.quiet) {
    session.terminal.out << "rebuilt  " << SafeText(snapshot.name()) << ": boot "
                         << FormatSeconds(ToSeconds(snapshot.boot_duration())) << ", init "
                         << FormatSeconds(ToSeconds(snapshot.init_duration())) << "\n";
  }
  return kExitOk;
}

}  // namespace hearth::cli
