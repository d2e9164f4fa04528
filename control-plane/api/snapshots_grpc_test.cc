// SPDX-License-Identifier: Apache-2.0
// Snapshots and images over a real socket; the node is a fake one.
#include <atomic>
#include <thread>

#include "control-plane/api/test_world.h"
#include "control-plane/limits.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

std::vector<Snapshot> List(World& world, const std::string& parent) {
  ListSnapshotsRequest request;
  request.set_parent(parent);
  ListSnapshotsResponse response;
  grpc::ClientContext context;
  const grpc::Status status = world.snapshots->ListSnapshots(&context, request, &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return {response.snapshots().begin(), response.snapshots().end()};
}

google::longrunning::Operation BeginRebuild(World& world, const std::string& version,
                                            const std::string& request_id = "") {
  RebuildSnapshotRequest request;
  request.set_parent(version);
  request.set_request_id(request_id);
  google::longrunning::Operation operation;
  grpc::ClientContext context;
  const grpc::Status status = world.snapshots->RebuildSnapshot(&context, request, &operation);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return operation;
}

// Another runtime image, and a manifest that names it.
void Patch(World& world) {
  const auto file = [&](const std::string& name, const std::string& content) {
    std::ofstream(world.folder + "/images/" + name) << content;
    return R"({"path": ")" + name + R"(", "digest": ")" + DigestOf(content) + R"("})";
  };
  std::ofstream(world.folder + "/images/manifest.json")
      << R"({"kernel": )" << file("kernel", "kernel") << R"(, "agent": )" << file("agent", "agent")
      << R"(, "runtimes": {"python3.11": {"image": )" << file("py2", "patched")
      << R"(, "manifest": {"argv": ["/usr/bin/python3"], "handlerRequired": true}}}})";
}

}  // namespace

TEST_CASE("api: a deployed version names its snapshot, and its stages tell what making it took") {
  World world;
  const std::string function = world.MakeFunction("f");
  const auto operation = world.Wait(world.Begin(world.VersionRequest(function, "echo.h")).name());
  Version version;
  REQUIRE(operation.response().UnpackTo(&version));
  CHECK(version.snapshot() == function + "/versions/1/snapshots/s1");
  CreateVersionMetadata metadata;
  REQUIRE(operation.metadata().UnpackTo(&metadata));
  std::vector<int> stages;
  for (const auto& stage : metadata.finished()) stages.push_back(stage.stage());
  CHECK(std::find(stages.begin(), stages.end(), CreateVersionMetadata::SNAPSHOTTING) + 1 ==
        std::find(stages.begin(), stages.end(), CreateVersionMetadata::PUBLISHING));

  GetVersionRequest request;
  request.set_name(version.name());
  grpc::ClientContext context;
  REQUIRE(world.functions->GetVersion(&context, request, &version).ok());
  CHECK(version.snapshot() == function + "/versions/1/snapshots/s1");
}

TEST_CASE("api: snapshots are listed by version, with wildcards and pages, and got by name") {
  World world;
  const std::string f = world.MakeFunction("f"), g = world.MakeFunction("g");
  world.Deploy(f, "echo.h");
  world.Deploy(f, "echo.h");
  world.Deploy(g, "echo.h");
  CHECK(List(world, f + "/versions/2").size() == 1);
  CHECK(List(world, f + "/versions/-").size() == 2);
  CHECK(List(world, "tenants/-/functions/-/versions/-").size() == 3);
  ListSnapshotsRequest request;
  request.set_parent("tenants/default/functions/-/versions/-");
  request.set_page_size(2);
  ListSnapshotsResponse response;
  {
    grpc::ClientContext context;
    REQUIRE(world.snapshots->ListSnapshots(&context, request, &response).ok());
  }
  CHECK(response.snapshots_size() == 2);
  request.set_page_token(response.next_page_token());
  {
    grpc::ClientContext context;
    REQUIRE(world.snapshots->ListSnapshots(&context, request, &response).ok());
  }
  CHECK(response.snapshots_size() == 1);
  CHECK(response.next_page_token().empty());

  GetSnapshotRequest get;
  get.set_name(List(world, g + "/versions/1").at(0).name());
  Snapshot snapshot;
  {
    grpc::ClientContext context;
    REQUIRE(world.snapshots->GetSnapshot(&context, get, &snapshot).ok());
  }
  CHECK(snapshot.version() == g + "/versions/1");
  get.set_name(g + "/versions/1/snapshots/none");
  {
    grpc::ClientContext context;
    CHECK(world.snapshots->GetSnapshot(&context, get, &snapshot).error_code() ==
          grpc::StatusCode::NOT_FOUND);
  }
  request.set_parent(g + "/versions/9");
  grpc::ClientContext context;
  CHECK(world.snapshots->ListSnapshots(&context, request, &response).error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("api: a snapshot that is deleted is gone, and a repeat of that is the same answer") {
  World world;
  const std::string version = world.Deploy(world.MakeFunction("f"), "echo.h").name();
  DeleteSnapshotRequest request;
  request.set_name(List(world, version).at(0).name());
  request.set_request_id("11111111-2222-4333-8444-555555555555");
  google::protobuf::Empty empty;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    CHECK(world.snapshots->DeleteSnapshot(&context, request, &empty).ok());
  }
  CHECK(List(world, version).empty());
  request.clear_request_id();
  grpc::ClientContext context;
  const grpc::Status status = world.snapshots->DeleteSnapshot(&context, request, &empty);
  CHECK(status.error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(Reason(status) == "RESOURCE_NOT_FOUND");
}

TEST_CASE("api: while a snapshot is being deleted the metadata answers, and a repeat waits") {
  World world;
  const std::string function = world.MakeFunction("f");
  const std::string version = world.Deploy(function, "held.h").name();
  DeleteSnapshotRequest request;
  request.set_name(List(world, version).at(0).name());
  request.set_request_id("11111111-2222-4333-8444-555555555555");
  std::atomic<int> deleted{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back([&] {
      google::protobuf::Empty empty;
      grpc::ClientContext context;
      deleted += world.snapshots->DeleteSnapshot(&context, request, &empty).ok();
    });
  }
  Until([&] { return world.node->held_deletes() == 1; });
  GetFunctionRequest get;
  get.set_name(function);
  Function answer;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  CHECK(world.functions->GetFunction(&context, get, &answer).ok());
  world.node->Open();
  for (auto& client : clients) client.join();
  CHECK(deleted == 2);
  CHECK(world.node->held_deletes() == 1);
}

TEST_CASE("api: a rebuild that is refused leaves nothing, and is taken when there is room again") {
  ServerLimits few;
  few.rebuilds_queued = 2;
  World world(few);
  const std::string version = world.Deploy(world.MakeFunction("f"), "held.h").name();
  std::vector<std::string> taken;
  for (size_t i = 0; i < limits::kMaxRebuildsAtOnce + few.rebuilds_queued; ++i) {
    taken.push_back(BeginRebuild(world, version).name());
  }
  RebuildSnapshotRequest request;
  request.set_parent(version);
  request.set_request_id("11111111-2222-4333-8444-555555555555");
  google::longrunning::Operation operation;
  {
    grpc::ClientContext context;
    const auto refused = world.snapshots->RebuildSnapshot(&context, request, &operation);
    CHECK(refused.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
    CHECK(Reason(refused) == "TOO_MANY_REBUILDS");
  }
  world.node->Open();
  for (const std::string& name : taken) world.Wait(name);
  const auto ended = world.Wait(BeginRebuild(world, version, request.request_id()).name());
  CHECK(ended.has_response());
}

TEST_CASE("api: of a tenant's operations the newest 1000 are kept, whatever made them") {
  World world;
  const std::string version = world.Deploy(world.MakeFunction("f"), "echo.h").name();
  const auto kept = [&] {
    size_t count = 0;
    CHECK(world.state->metadata
              ->Read([&](MetadataTransaction& t) {
                count = t.All(Kind::kOperation)->size();
                return absl::OkStatus();
              })
              .ok());
    return count;
  };
  // As an earlier hearthd, which did not forget those of rebuilds, would have left them.
  const auto leave = [&](int count) {
    CHECK(world.state->metadata
              ->Write([&](MetadataTransaction& t) {
                for (int i = 0; i < count; ++i) {
                  const std::string id = world.state->uuids.Next();
                  google::longrunning::Operation ended;
                  ended.set_name(std::string(kTenant) + "/operations/" + id);
                  ended.set_done(true);
                  CHECK(t.Insert(Kind::kOperation,
                                 {ended.name(), kTenant, id, "", ended.SerializeAsString()})
                            .ok());
                }
                return absl::OkStatus();
              })
              .ok());
  };
  leave(1100);
  const auto rebuilt = world.Wait(BeginRebuild(world, version).name());
  CHECK(kept() == limits::kMaxOperations);
  CHECK(world.Wait(rebuilt.name()).done());  // The newest is not among those that went.
  leave(100);
  world.Deploy("tenants/default/functions/f", "echo.h");
  CHECK(kept() == limits::kMaxOperations);
}

TEST_CASE("api: a rebuild is an operation that ends with the new snapshot, or says why not") {
  World world;
  const std::string function = world.MakeFunction("f");
  const std::string version = world.Deploy(function, "echo.h").name();
  const auto begun = BeginRebuild(world, version, "11111111-2222-4333-8444-555555555555");
  CHECK(BeginRebuild(world, version, "11111111-2222-4333-8444-555555555555").name() ==
        begun.name());
  const auto ended = world.Wait(begun.name());
  Snapshot snapshot;
  REQUIRE(ended.response().UnpackTo(&snapshot));
  CHECK(snapshot.name() == version + "/snapshots/s2");
  RebuildSnapshotMetadata metadata;
  REQUIRE(ended.metadata().UnpackTo(&metadata));
  CHECK(metadata.version() == version);
  CHECK(metadata.stage() == CreateVersionMetadata::BOOTING);

  const auto failed =
      world.Wait(BeginRebuild(world, world.Deploy(function, "unsaved.h").name()).name());
  CHECK(Reason(failed.error()) == "SNAPSHOT_FAILED");

  RebuildSnapshotRequest request;
  request.set_parent(function + "/versions/9");
  google::longrunning::Operation operation;
  grpc::ClientContext context;
  CHECK(world.snapshots->RebuildSnapshot(&context, request, &operation).error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("api: what is deleted takes its snapshots with it") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.h");
  world.Deploy(f, "echo.h");
  DeleteVersionRequest version;
  version.set_name(f + "/versions/1");
  google::protobuf::Empty empty;
  {
    grpc::ClientContext context;
    REQUIRE(world.functions->DeleteVersion(&context, version, &empty).ok());
  }
  CHECK(List(world, f + "/versions/-").size() == 1);
  DeleteFunctionRequest function;
  function.set_name(f);
  grpc::ClientContext context;
  REQUIRE(world.functions->DeleteFunction(&context, function, &empty).ok());
  CHECK(world.node->ListSnapshots().empty());
}

TEST_CASE("api: at start-up the node is told which versions there are") {
  World world;
  const Version version = world.Deploy(world.MakeFunction("f"), "echo.h");
  world.Stop();
  world.Start();
  CHECK(world.node->retained() == std::set<std::string>{version.uid()});
  REQUIRE(world.node->refreshed().size() == 1);
  CHECK(world.node->refreshed()[0]->name == version.name());
}

TEST_CASE("api: images that change are read again, and what runs on old ones is listed") {
  World world;
  const Version version = world.Deploy(world.MakeFunction("f"), "echo.h");
  ListImagesResponse images;
  {
    grpc::ClientContext context;
    REQUIRE(world.images->ListImages(&context, ListImagesRequest(), &images).ok());
  }
  REQUIRE(images.images_size() == 3);
  CHECK(images.images(0).name() == "images/agent");
  CHECK(images.images(0).kind() == Image::AGENT);
  CHECK(images.images(2).name() == "images/python3.11");
  CHECK(images.images(2).snapshots() == 1);
  CHECK(images.images(2).size_bytes() == 2);

  ReloadImagesResponse reloaded;
  {
    grpc::ClientContext context;
    REQUIRE(world.images->ReloadImages(&context, ReloadImagesRequest(), &reloaded).ok());
  }
  CHECK_FALSE(reloaded.changed());
  CHECK(world.node->refreshed().empty());
  Patch(world);
  ReloadImagesRequest reload;
  reload.set_request_id("11111111-2222-4333-8444-555555555555");
  for (int i = 0; i < 2; ++i) {  // The repeat has the same answer, though nothing changed again.
    grpc::ClientContext context;
    REQUIRE(world.images->ReloadImages(&context, reload, &reloaded).ok());
    CHECK(reloaded.changed());
  }
  REQUIRE(world.node->refreshed().size() == 1);
  CHECK(world.node->refreshed()[0]->runtime.image.digest == DigestOf("patched"));
  CHECK(world.node->refreshed()[0]->kernel.digest == DigestOf("kernel"));

  ListOutdatedResponse outdated;
  {
    grpc::ClientContext context;
    REQUIRE(world.images->ListOutdated(&context, ListOutdatedRequest(), &outdated).ok());
  }
  REQUIRE(outdated.uses_size() == 1);
  CHECK(outdated.uses(0).resource() == version.snapshot());
  CHECK(outdated.uses(0).image() == "images/python3.11");
  CHECK(outdated.uses(0).digest() == DigestOf("py"));
  CHECK(outdated.uses(0).current_digest() == DigestOf("patched"));

  world.Wait(BeginRebuild(world, version.name()).name());
  grpc::ClientContext context;
  REQUIRE(world.images->ListOutdated(&context, ListOutdatedRequest(), &outdated).ok());
  CHECK(outdated.uses_size() == 0);
}

TEST_CASE("api: a manifest that cannot be used changes nothing and is told") {
  World world;
  world.Deploy(world.MakeFunction("f"), "echo.h");
  std::ofstream(world.folder + "/images/manifest.json") << "{]";
  ReloadImagesResponse reloaded;
  grpc::ClientContext context;
  const grpc::Status status =
      world.images->ReloadImages(&context, ReloadImagesRequest(), &reloaded);
  CHECK(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "IMAGES_NOT_USABLE");
  InvokeResponse response;
  CHECK(world.Invoke("tenants/default/functions/f", "1", &response).ok());
}

}  // namespace hearth::control
