// SPDX-License-Identifier: Apache-2.0
// `hearth deploy`: pack, upload, create a version, and follow its way to READY.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <vector>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"
#include "cli/names.h"
#include "cli/operation.h"
#include "cli/pack.h"

namespace hearth::cli {
namespace {

using Clock = std::chrono::steady_clock;
using google::longrunning::Operation;
using hearth::v1::CreateVersionMetadata;

constexpr size_t kArtifactChunkBytes = 1024 * 1024;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Stage {
  std::string name;
  double seconds = 0;
};

std::string StageName(CreateVersionMetadata::Stage stage) {
  switch (stage) {
    case CreateVersionMetadata::QUEUED:
      return "queue";
    case CreateVersionMetadata::BUILDING_IMAGE:
      return "image";
    case CreateVersionMetadata::BOOTING:
      return "boot";
    case CreateVersionMetadata::INITIALIZING:
      return "init";
    case CreateVersionMetadata::SNAPSHOTTING:
      return "snapshot";
    case CreateVersionMetadata::PUBLISHING:
      return "publish";
    default:
      return "work";
  }
}

class Deployment {
 public:
  Deployment(Session& session, const DeployOptions& options)
      : session_(session), progress_(session.terminal) {
    const std::string id =
        options.name.empty() ? FunctionIdFromFolder(options.directory) : options.name;
    function_ = ParseFunctionOnly(id, session.options.tenant);
  }

  // The archive's name in the API.
  std::string Upload(const std::string& directory, const std::string& description) {
    const auto start = Clock::now();
    const PackedFolder folder =
        PackFolder(directory, [&](int64_t bytes) { Show("packing " + FormatBytes(bytes)); });
    MakeFunction(description);
    std::string name = SendUnlessThere(folder);
    stages_.push_back({"upload", Since(start)});
    return name;
  }

  hearth::v1::Version Create(const hearth::v1::VersionSpec& spec, const std::string& description,
                             bool keep_live) {
    hearth::v1::CreateVersionRequest request;
    request.set_parent(function_.FunctionName());
    *request.mutable_version()->mutable_spec() = spec;
    request.mutable_version()->set_description(description);
    request.set_keep_live(keep_live);
    request.set_request_id(NewUuid());
    const Operation operation = RunOperation(
        session_, {What(), "deployment",
                   [&](grpc::ClientContext* context, Operation* started) {
                     return session_.client().functions->CreateVersion(context, request, started);
                   },
                   [&](const Operation& so_far) { ShowStage(so_far); }});
    progress_.Clear();
    CreateVersionMetadata metadata;
    if (operation.metadata().UnpackTo(&metadata)) {
      for (const auto& stage : metadata.finished()) {
        stages_.push_back({StageName(stage.stage()), ToSeconds(stage.duration())});
      }
    }
    if (operation.has_error()) {
      Failure failure = FromRpcStatus(operation.error(), What());
      if (!stages_.empty()) failure.facts.push_back("it went: " + StageList());
      failure.advice.push_back("`hearth logs " + function_.function +
                               "` shows what the function printed.");
      throw CliError(std::move(failure));
    }
    hearth::v1::Version version;
    if (!operation.response().UnpackTo(&version)) {
      throw LocalError("hearthd's answer holds no version; is it of another release?");
    }
    return version;
  }

  std::string StageList() const {
    std::string text;
    for (const Stage& stage : stages_) {
      // A queue that nobody waited in is not worth a word.
      if ((stage.name == "queue" || stage.name == "publish") && stage.seconds < 0.05) continue;
      text += (text.empty() ? "" : ", ") + stage.name + " " + FormatSeconds(stage.seconds);
    }
    return text;
  }
  const std::vector<Stage>& stages() const { return stages_; }
  const FunctionRef& function() const { return function_; }
  bool uploaded() const { return uploaded_; }

 private:
  std::string What() const { return "deploy " + function_.function; }
  void Show(const std::string& text) {
    if (!session_.options.quiet) progress_.Show("deploy   " + function_.function + ": " + text);
  }

  // Makes the function, and its tenant, unless they are there; gives it the description.
  void MakeFunction(const std::string& description) {
    Client& client = session_.client();
    hearth::v1::GetFunctionRequest get;
    get.set_name(function_.FunctionName());
    hearth::v1::Function function;
    grpc::Status status = client.TryCall([&](grpc::ClientContext* context) {
      return client.functions->GetFunction(context, get, &function);
    });
    if (status.ok()) return Redescribe(function, description);
    if (status.error_code() != grpc::StatusCode::NOT_FOUND) {
      throw CliError(FromStatus(status, What()));
    }
    hearth::v1::CreateTenantRequest tenant;
    tenant.set_tenant_id(function_.tenant);
    hearth::v1::Tenant made_tenant;
    status = client.TryCall([&](grpc::ClientContext* context) {
      return client.tenants->CreateTenant(context, tenant, &made_tenant);
    });
    // Two first deployments may run at once: whoever is second finds what the first made.
    if (!status.ok() && status.error_code() != grpc::StatusCode::ALREADY_EXISTS) {
      throw CliError(FromStatus(status, "make the tenant " + function_.tenant));
    }
    hearth::v1::CreateFunctionRequest create;
    create.set_parent(function_.Parent());
    create.set_function_id(function_.function);
    create.mutable_function()->set_description(description);
    status = client.TryCall([&](grpc::ClientContext* context) {
      return client.functions->CreateFunction(context, create, &function);
    });
    if (!status.ok() && status.error_code() != grpc::StatusCode::ALREADY_EXISTS) {
      throw CliError(FromStatus(status, "make the function " + function_.function));
    }
  }

  // A hearth.json without a description leaves the one that there is.
  void Redescribe(const hearth::v1::Function& function, const std::string& description) {
    if (description.empty() || description == function.description()) return;
    Client& client = session_.client();
    hearth::v1::UpdateFunctionRequest update;
    update.mutable_function()->set_name(function.name());
    update.mutable_function()->set_description(description);
    update.mutable_update_mask()->add_paths("description");
    hearth::v1::Function updated;
    client.Call("describe the function " + function_.function, [&](grpc::ClientContext* context) {
      return client.functions->UpdateFunction(context, update, &updated);
    });
  }

  std::string SendUnlessThere(const PackedFolder& folder) {
    Client& client = session_.client();
    hearth::v1::GetArtifactRequest get;
    std::string id = folder.digest;
    id.replace(id.find(':'), 1, "-");
    get.set_name(function_.Parent() + "/artifacts/" + id);
    hearth::v1::Artifact artifact;
    const grpc::Status status = client.TryCall([&](grpc::ClientContext* context) {
      return client.artifacts->GetArtifact(context, get, &artifact);
    });
    if (status.ok()) return artifact.name();
    uploaded_ = true;
    return Send(folder);
  }

  std::string Send(const PackedFolder& folder) {
    Client& client = session_.client();
    grpc::ClientContext context;
    const Interrupt::Scope scope(client.interrupt(), [&] { context.TryCancel(); });
    hearth::v1::Artifact artifact;
    auto writer = client.artifacts->UploadArtifact(&context, &artifact);
    hearth::v1::UploadArtifactRequest part;
    part.mutable_header()->set_parent(function_.Parent());
    part.mutable_header()->set_expected_digest(folder.digest);
    part.mutable_header()->set_size_bytes(folder.size_bytes);
    bool going = writer->Write(part);
    std::string buffer(kArtifactChunkBytes, '\0');
    // A Write that fails means that the server has answered: Finish tells what.
    for (int64_t sent = 0; going && sent < folder.size_bytes;) {
      const ssize_t count = read(folder.file.get(), buffer.data(), buffer.size());
      if (count <= 0) throw LocalError("cannot read the packed folder again");
      part.set_chunk(buffer.data(), static_cast<size_t>(count));
      going = writer->Write(part);
      sent += count;
      if (!session_.options.quiet) {
        progress_.ShowBytes("deploy   " + function_.function + ": upload", sent, folder.size_bytes);
      }
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (!status.ok()) throw CliError(FromStatus(status, "upload " + function_.function));
    return artifact.name();
  }

  void ShowStage(const Operation& operation) {
    CreateVersionMetadata metadata;
    if (!operation.metadata().UnpackTo(&metadata)) return;
    std::string text;
    for (const Stage& stage : stages_)
      text += stage.name + " " + FormatSeconds(stage.seconds) + ", ";
    for (const auto& stage : metadata.finished()) {
      text += StageName(stage.stage()) + " " + FormatSeconds(ToSeconds(stage.duration())) + ", ";
    }
    Show(text + StageName(metadata.stage()) + " ... " + std::to_string(metadata.percent()) + " %");
  }

  Session& session_;
  ProgressLine progress_;
  FunctionRef function_;
  std::vector<Stage> stages_;
  bool uploaded_ = false;
};

}  // namespace

int Deploy(Session& session, const DeployOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_directory(options.directory, error)) {
    throw UsageError(std::filesystem::exists(options.directory, error)
                         ? options.directory + " is no folder"
                         : "there is no folder " + options.directory);
  }
  FunctionConfig config = ReadConfig(options.directory);
  Override(options.overrides, &config);
  Deployment deployment(session, options);
  hearth::v1::VersionSpec spec = ToSpec(config, options.directory + "/" + kConfigFile);
  const auto start = Clock::now();
  const std::string description = config.description.value_or("");
  spec.set_artifact(deployment.Upload(options.directory, description));
  const hearth::v1::Version version = deployment.Create(spec, description, options.keep_live);
  const double seconds = Since(start);
  if (session.options.json) {
    nlohmann::json stages = nlohmann::json::array();
    for (const Stage& stage : deployment.stages()) {
      stages.push_back({{"stage", stage.name}, {"seconds", stage.seconds}});
    }
    session.terminal.out << JsonText({{"version", ToJson(version)},
                                      {"stages", stages},
                                      {"uploaded", deployment.uploaded()},
                                      {"seconds", seconds}});
  } else {
    session.terminal.out << "deploy   " << deployment.function().function << " v"
                         << LastSegment(version.name()) << ": " << deployment.StageList() << "\n";
  }
  return kExitOk;
}

}  // namespace hearth::cli
