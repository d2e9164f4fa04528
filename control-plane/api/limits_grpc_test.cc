// SPDX-License-Identifier: Apache-2.0
// The limits of a whole server, each reached at its edge through a real client.
#include <atomic>
#include <thread>

#include "control-plane/api/test_world.h"
#include "control-plane/limits.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

bool Refused(const grpc::Status& status, const std::string& reason) {
  INFO(status.error_message());
  google::rpc::RetryInfo retry;
  google::rpc::QuotaFailure quota;
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && Reason(status) == reason &&
         Detailed(Details(status), &retry) && Detailed(Details(status), &quota);
}

grpc::Status Stream(World& world, const std::string& name) {
  grpc::ClientContext context;
  auto stream = world.invocations->InvokeStream(&context);
  InvokeStreamRequest request;
  request.mutable_start()->set_name(name);
  stream->Write(request);
  stream->WritesDone();
  InvokeStreamResponse response;
  while (stream->Read(&response)) {
  }
  return stream->Finish();
}

}  // namespace

TEST_CASE("limits: one invocation more than may run at once is refused, and taken later") {
  ServerLimits few;
  few.invocations = 2;
  World world(few);
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "gate.handler");
  std::atomic<int> succeeded{0};
  std::vector<std::thread> clients;
  for (size_t i = 0; i < few.invocations; ++i) {
    clients.emplace_back([&] {
      InvokeResponse response;
      succeeded += world.Invoke(f, "x", &response).ok();
    });
  }
  Until([&] { return world.node->runs() == 2; });
  InvokeResponse response;
  CHECK(Refused(world.Invoke(f, "x", &response), "TOO_MANY_INVOCATIONS"));
  CHECK(Refused(Stream(world, f), "TOO_MANY_INVOCATIONS"));
  world.node->Open();
  for (auto& client : clients) client.join();
  CHECK(succeeded == 2);
  // Their threads are free a moment after their answers.
  Until([&] { return world.Invoke(f, "x", &response).ok(); });
  CHECK(world.node->runs() == 3);
}

TEST_CASE("limits: one open stream more than there may be is refused") {
  ServerLimits few;
  few.open_streams = 1;
  World world(few);
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "gate.handler");
  grpc::Status first;
  std::thread client([&] { first = Stream(world, f); });
  Until([&] { return world.node->runs() == 1; });
  CHECK(Refused(Stream(world, f), "TOO_MANY_INVOCATIONS"));
  world.node->Open();
  client.join();
  CHECK(first.ok());
}

TEST_CASE("limits: a byte more than may be in flight is refused before user code starts") {
  ServerLimits few;
  few.buffered_bytes = limits::kMaxUnaryPayloadBytes + 10;  // A response's place is kept.
  World world(few);
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  InvokeResponse response;
  CHECK(world.Invoke(f, std::string(10, 'x'), &response).ok());
  CHECK(Refused(world.Invoke(f, std::string(11, 'x'), &response), "TOO_MANY_BYTES_IN_FLIGHT"));
  CHECK(world.node->runs() == 1);
}

TEST_CASE("limits: a kept response counts among the bytes in flight when it is given again") {
  ServerLimits few;
  few.buffered_bytes = limits::kMaxUnaryPayloadBytes + 30;
  World world(few);
  const std::string f = world.MakeFunction("f"), g = world.MakeFunction("g");
  world.Deploy(f, "echo.handler");
  world.Deploy(g, "gate.handler");
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "ten bytes.", &response, "key").ok());
  std::thread client([&] {
    InvokeResponse other;
    world.Invoke(g, "", &other);
  });
  Until([&] { return world.node->runs() == 2; });
  // There is room for its payload, but not for the response with its record.
  CHECK(Refused(world.Invoke(f, "ten bytes.", &response, "key"), "TOO_MANY_BYTES_IN_FLIGHT"));
  world.node->Open();
  client.join();
  CHECK(world.Invoke(f, "ten bytes.", &response, "key").ok());
  CHECK(world.node->runs() == 2);
}

TEST_CASE("limits: the responses kept of one tenant refuse its new keys, and nobody else's") {
  ServerLimits few;
  few.kept_response_bytes = 0;
  World world(few);
  CreateTenantRequest create;
  create.set_tenant_id("other");
  Tenant tenant;
  grpc::ClientContext context;
  REQUIRE(world.tenants->CreateTenant(&context, create, &tenant).ok());
  const std::string f = world.MakeFunction("f"), g = world.MakeFunction("g", tenant.name());
  world.Deploy(f, "echo.handler");
  world.Deploy(g, "echo.handler");
  InvokeResponse first, again;
  REQUIRE(world.Invoke(f, "x", &first, "1").ok());
  CHECK(Refused(world.Invoke(f, "x", &again, "2"), "TOO_MANY_KEPT_RESPONSES"));
  CHECK(world.node->runs() == 1);
  REQUIRE(world.Invoke(f, "x", &again, "1").ok());
  CHECK(again.invocation().name() == first.invocation().name());
  CHECK(world.Invoke(f, "x", &again).ok());
  CHECK(world.Invoke(g, "x", &again, "1").ok());
}

TEST_CASE("limits: one upload more than there may be at once is refused") {
  ServerLimits few;
  few.uploads = 1;
  World world(few);
  Artifact artifact, none;
  grpc::ClientContext context;
  auto writer = world.artifacts->UploadArtifact(&context, &artifact);
  UploadArtifactRequest request;
  request.mutable_header()->set_parent(kTenant);
  REQUIRE(writer->Write(request));
  Until([&] { return !std::filesystem::is_empty(world.folder + "/state/artifacts/incoming"); });
  CHECK(Refused(world.UploadBytes("x", "", 0, &none), "TOO_MANY_UPLOADS"));
  request.set_chunk("content");
  writer->Write(request);
  writer->WritesDone();
  CHECK(writer->Finish().ok());
  CHECK(world.UploadBytes("x", "", 0, &none).ok());
}

TEST_CASE("limits: one follower of logs more than there may be is refused") {
  ServerLimits few;
  few.followers = 1;
  World world(few);
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  TailLogsRequest tail;
  tail.set_parent(f);
  tail.set_follow(true);
  grpc::ClientContext context, late;
  auto reader = world.logs->TailLogs(&context, tail);
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "x", &response).ok());
  TailLogsResponse lines;
  REQUIRE(reader->Read(&lines));
  auto refused = world.logs->TailLogs(&late, tail);
  CHECK_FALSE(refused->Read(&lines));
  CHECK(Refused(refused->Finish(), "TOO_MANY_FOLLOWERS"));
  context.TryCancel();
}

TEST_CASE("limits: of two who wait for an operation where one may, one is refused") {
  ServerLimits few;
  few.waits = 1;
  World world(few);
  const auto operation = world.Begin(world.VersionRequest(world.MakeFunction("f"), "slow.handler"));
  google::longrunning::WaitOperationRequest wait;
  wait.set_name(operation.name());
  std::vector<grpc::Status> statuses(2);
  std::vector<std::thread> clients;
  std::atomic<int> ended{0};
  for (auto& status : statuses) {
    clients.emplace_back([&] {
      google::longrunning::Operation done;
      grpc::ClientContext context;
      status = world.operations->WaitOperation(&context, wait, &done);
      ++ended;
    });
  }
  Until([&] { return ended == 1; });
  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name(operation.name());
  google::protobuf::Empty empty;
  grpc::ClientContext context;
  CHECK(world.operations->CancelOperation(&context, cancel, &empty).ok());
  for (auto& client : clients) client.join();
  CHECK(statuses[0].ok() != statuses[1].ok());
  CHECK(Refused(statuses[0].ok() ? statuses[1] : statuses[0], "TOO_MANY_WAITS"));
}

}  // namespace hearth::control
