// SPDX-License-Identifier: Apache-2.0
// Invocations, logs, usage, health, reflection, restarts, through a real client.
#include <grpcpp/generic/generic_stub.h>

#include <thread>

#include "control-plane/api/test_world.h"
#include "control-plane/limits.h"

namespace hearth::control {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

namespace {

struct Streamed {
  grpc::Status status;
  Invocation invocation;
  std::string payload;
  std::string content_type;
};

Streamed Stream(World& world, const std::string& name, const std::string& payload,
                size_t chunk_bytes = 1 << 20) {
  Streamed result;
  grpc::ClientContext context;
  auto stream = world.invocations->InvokeStream(&context);
  InvokeStreamRequest request;
  request.mutable_start()->set_name(name);
  bool alive = stream->Write(request);
  for (size_t at = 0; alive && at < payload.size(); at += chunk_bytes) {
    request.set_chunk(payload.substr(at, chunk_bytes));
    alive = stream->Write(request);
  }
  stream->WritesDone();
  InvokeStreamResponse response;
  while (stream->Read(&response)) {
    if (response.has_started()) result.content_type = response.started().content_type();
    if (response.part_case() == InvokeStreamResponse::kChunk) result.payload += response.chunk();
    if (response.has_finished()) result.invocation = response.finished();
  }
  result.status = stream->Finish();
  return result;
}

UsageSum UsageOf(World& world, const std::string& function) {
  const auto sums =
      world.state->ledger->Sum(function, absl::InfinitePast(), absl::InfiniteFuture());
  REQUIRE(sums.ok());
  return sums->empty() ? UsageSum{} : (*sums)[0];
}

// A call of a method whose messages are known as bytes only: writes one, reads one.
std::string RawCall(World& world, const std::string& method, const std::string& request) {
  grpc::GenericStub stub(world.channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, method, &queue);
  const auto next = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  REQUIRE(next());
  const grpc::Slice slice(request);
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  REQUIRE(next());
  call->WritesDone(nullptr);
  REQUIRE(next());
  grpc::ByteBuffer buffer;
  call->Read(&buffer, nullptr);
  REQUIRE(next());
  grpc::Status status;
  call->Finish(&status, nullptr);
  REQUIRE(next());
  CHECK(status.ok());
  std::vector<grpc::Slice> slices;
  REQUIRE(buffer.Dump(&slices).ok());
  std::string response;
  for (const auto& part : slices)
    response.append(reinterpret_cast<const char*>(part.begin()), part.size());
  return response;
}

}  // namespace

TEST_CASE("server: health says SERVING, reflection lists the services") {
  World world;
  CHECK(RawCall(world, "/grpc.health.v1.Health/Check", "") == std::string("\x08\x01"));
  const std::string service = "hearth.v1.FunctionService";
  CHECK(RawCall(world, "/grpc.health.v1.Health/Check",
                std::string("\x0a") + static_cast<char>(service.size()) + service) ==
        std::string("\x08\x01"));
  // ServerReflectionRequest{list_services: ""}
  const std::string listed =
      RawCall(world, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              std::string("\x3a\x00", 2));
  for (const char* name :
       {"hearth.v1.TenantService", "hearth.v1.FunctionService", "hearth.v1.ArtifactService",
        "hearth.v1.InvocationService", "hearth.v1.LogService", "hearth.v1.UsageService",
        "hearth.v1.InstanceService", "hearth.v1.RuntimeService", "google.longrunning.Operations"}) {
    INFO(name);
    CHECK(listed.find(name) != std::string::npos);
  }
  // ServerReflectionRequest{file_containing_symbol: "grpc.health.v1.Health"}
  const std::string described =
      RawCall(world, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              "\x22\x15grpc.health.v1.Health");
  CHECK(described.find("HealthCheckRequest") != std::string::npos);
}

TEST_CASE(
    "invoke: the answer is the response, its record is in the ledger, its lines in the logs") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  InvokeResponse response;
  const auto status = world.Invoke(f, "hello", &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  CHECK(response.payload() == "hello");
  CHECK(response.content_type() == "application/json");
  const Invocation& invocation = response.invocation();
  CHECK(invocation.outcome() == SUCCEEDED);
  CHECK(invocation.version() == f + "/versions/1");
  CHECK(invocation.usage().host().request_bytes() == 5);
  CHECK(invocation.usage().host().response_bytes() == 5);
  CHECK(invocation.usage().billed().duration_ms() == 2);
  CHECK(invocation.usage().billed().memory_mib_ms() == 256);

  GetInvocationRequest get;
  get.set_name(invocation.name());
  Invocation kept;
  grpc::ClientContext get_context;
  REQUIRE(world.invocations->GetInvocation(&get_context, get, &kept).ok());
  CHECK(kept.SerializeAsString() == invocation.SerializeAsString());

  TailLogsRequest tail;
  tail.set_parent(f);
  tail.set_invocation(invocation.name());
  grpc::ClientContext tail_context;
  auto reader = world.logs->TailLogs(&tail_context, tail);
  TailLogsResponse lines;
  std::string all;
  while (reader->Read(&lines)) {
    for (const auto& entry : lines.entries())
      all += entry.text().substr(0, entry.text().find(' ')) + " ";
  }
  CHECK(reader->Finish().ok());
  CHECK(all == "START running END REPORT ");

  QueryUsageRequest query;
  query.set_parent(kTenant);
  QueryUsageResponse usage;
  grpc::ClientContext usage_context;
  REQUIRE(world.usage->QueryUsage(&usage_context, query, &usage).ok());
  REQUIRE(usage.rows_size() == 1);
  CHECK(usage.rows(0).function() == f);
  CHECK(usage.rows(0).outcomes().at("SUCCEEDED") == 1);
  CHECK(usage.total().billed().invocations() == 1);

  ListInstancesRequest list;
  list.set_parent("tenants/-/functions/-");
  ListInstancesResponse instances;
  grpc::ClientContext list_context;
  REQUIRE(world.instances->ListInstances(&list_context, list, &instances).ok());
  CHECK(instances.instances_size() == 1);
  ListRuntimesResponse runtimes;
  grpc::ClientContext runtimes_context;
  REQUIRE(world.runtimes->ListRuntimes(&runtimes_context, {}, &runtimes).ok());
  CHECK(runtimes.runtimes(0).name() == "runtimes/python3.11");
}

TEST_CASE("invoke: 6 MB pass as a stream, a byte more is refused before user code starts") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  std::string payload(limits::kMaxPayloadBytes, 'p');
  payload[limits::kMaxPayloadBytes / 2] = 'q';
  const Streamed most = Stream(world, f, payload);
  INFO(most.status.error_message());
  REQUIRE(most.status.ok());
  CHECK(most.invocation.outcome() == SUCCEEDED);
  CHECK((most.payload == payload));
  CHECK(most.content_type == "application/json");
  CHECK(world.node->runs() == 1);
  const Streamed over = Stream(world, f, payload + "x");
  CHECK(over.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Stream(world, f, payload, (1 << 20) + 1).status.error_code() ==
        grpc::StatusCode::INVALID_ARGUMENT);
  InvokeResponse response;
  CHECK(world.Invoke(f, std::string(limits::kMaxUnaryPayloadBytes + 1, 'x'), &response)
            .error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(world.Invoke(f, payload, &response).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(world.node->runs() == 1);
}

TEST_CASE("invoke: what the function does wrong is an outcome, not an error") {
  World world;
  const std::string f = world.MakeFunction("f"), g = world.MakeFunction("g");
  world.Deploy(f, "error.handler");
  world.Deploy(g, "big.handler");
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "x", &response).ok());
  CHECK(response.invocation().outcome() == FUNCTION_ERROR);
  CHECK(response.invocation().error().type() == "ValueError");
  const Streamed big = Stream(world, g, "x");
  REQUIRE(big.status.ok());
  CHECK(big.invocation.outcome() == FUNCTION_ERROR);
  CHECK(big.invocation.error().type() == "Hearth.ResponseTooLarge");
  CHECK(big.payload.empty());
  REQUIRE(world.Invoke(g, "x", &response).ok());
  CHECK(response.invocation().error().message().find("InvokeStream") != std::string::npos);
}

TEST_CASE("invoke: what cannot start is an error that says when to try again") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "busy.handler");
  InvokeResponse response;
  const auto status = world.Invoke(f, "x", &response);
  CHECK(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(Reason(status) == "NODE_BUSY");
  google::rpc::RetryInfo retry;
  CHECK(Detailed(Details(status), &retry));
  google::rpc::QuotaFailure quota;
  CHECK(Detailed(Details(status), &quota));
  CHECK(world.node->runs() == 0);
}

TEST_CASE("invoke: an error as large as one may be arrives with code, reason and what fits of it") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "broken.handler");
  InvokeResponse response;
  const auto status = world.Invoke(f, "x", &response);
  CHECK(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(Reason(status) == "FUNCTION_INIT_FAILED");
  FunctionError error;
  REQUIRE(Detailed(Details(status), &error));
  CHECK(error.type() == "ValueError");
  REQUIRE(error.stack_trace_size() > 2);
  CHECK(error.stack_trace(0).rfind("frame 0.", 0) == 0);
  CHECK(error.stack_trace(error.stack_trace_size() - 1).rfind("frame 63.", 0) == 0);
}

TEST_CASE("invoke: a client that leaves ends its invocation, which is billed all the same") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "wait.handler");
  grpc::ClientContext context;
  grpc::Status status;
  std::thread client([&] {
    InvokeRequest request;
    request.set_name(f);
    InvokeResponse response;
    status = world.invocations->Invoke(&context, request, &response);
  });
  Until([&] { return world.node->runs() == 1; });
  context.TryCancel();
  client.join();
  CHECK(status.error_code() == grpc::StatusCode::CANCELLED);
  Until([&] { return world.node->cancelled_runs() == 1; });
  Until([&] { return UsageOf(world, f).outcomes["INSTANCE_LOST"] == 1; });
}

TEST_CASE("invoke: a stream that is broken off before its end starts nothing") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    auto stream = world.invocations->InvokeStream(&context);
    InvokeStreamRequest request;
    request.mutable_start()->set_name(f);
    stream->Write(request);
    request.set_chunk("half of i");
    stream->Write(request);
    context.TryCancel();
    CHECK(stream->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  grpc::ClientContext context;
  auto stream = world.invocations->InvokeStream(&context);
  InvokeStreamRequest request;
  request.set_chunk("no start");
  stream->Write(request);
  stream->WritesDone();
  CHECK(Reason(stream->Finish()) == "INVALID_FIELD");
  CHECK(world.node->runs() == 0);
}

TEST_CASE("invoke: a repeat with the same idempotency_key is the same invocation") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "gate.handler");
  std::vector<InvokeResponse> responses(3);
  std::vector<std::thread> clients;
  std::atomic<int> failed{0};
  for (auto& response : responses) {
    clients.emplace_back([&] { failed += world.Invoke(f, "same", &response, "key").ok() ? 0 : 1; });
  }
  Until([&] { return world.node->runs() == 1; });
  world.node->Open();
  for (auto& client : clients) client.join();
  CHECK(failed == 0);
  CHECK(world.node->runs() == 1);
  for (const auto& response : responses) {
    CHECK(response.payload() == "same");
    CHECK(response.invocation().name() == responses[0].invocation().name());
  }
  InvokeResponse response;
  CHECK(Reason(world.Invoke(f, "other", &response, "key")) == "IDEMPOTENCY_KEY_REUSED");
  world.Stop();
  world.Start();
  REQUIRE(world.Invoke(f, "same", &response, "key").ok());
  CHECK(response.invocation().name() == responses[0].invocation().name());
  CHECK(world.node->runs() == 0);
  CHECK(UsageOf(world, f).outcomes["SUCCEEDED"] == 1);
}

TEST_CASE("invoke: hearthd that is stopped ends what goes on without its client, and keeps how") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "wait.handler");
  std::thread client([&] {
    InvokeResponse response;
    world.Invoke(f, "x", &response, "key");
  });
  Until([&] { return world.node->runs() == 1; });
  world.server->Stop(absl::ZeroDuration());
  client.join();
  CHECK(world.node->cancelled_runs() == 1);
  CHECK(UsageOf(world, f).outcomes["INSTANCE_LOST"] == 1);
  world.Stop();
  world.Start();
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "x", &response, "key").ok());
  CHECK(response.invocation().outcome() == INSTANCE_LOST);
  CHECK(world.node->runs() == 0);
}

TEST_CASE(
    "invoke: a call with an idempotency_key that only waits would leave nothing to a restart") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "queue.handler");
  grpc::ClientContext context;
  std::thread client([&] {
    InvokeRequest request;
    request.set_name(f);
    request.set_idempotency_key("key");
    InvokeResponse response;
    world.invocations->Invoke(&context, request, &response);
  });
  Until([&] { return world.node->waiting() == 1; });
  CHECK(world.state->metadata
            ->Read([&](MetadataTransaction& t) {
              CHECK(t.OpenCalls()->empty());
              return absl::OkStatus();
            })
            .ok());
  context.TryCancel();
  client.join();
}

TEST_CASE("invoke: a function that is made again knows nothing of the keys of the one before") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  InvokeResponse first, late, again;
  REQUIRE(world.Invoke(f, "x", &first, "ended").ok());
  world.Deploy(f, "gate.handler");
  std::thread client([&] { world.Invoke(f, "x", &late, "under way"); });
  Until([&] { return world.node->runs() == 2; });
  DeleteFunctionRequest erase;
  erase.set_name(f);
  google::protobuf::Empty empty;
  grpc::ClientContext context;
  REQUIRE(world.functions->DeleteFunction(&context, erase, &empty).ok());
  world.MakeFunction("f");
  world.node->Open();
  client.join();
  CHECK(late.invocation().outcome() == SUCCEEDED);
  world.Deploy(f, "error.handler");
  for (const char* key : {"ended", "under way"}) {
    REQUIRE(world.Invoke(f, "x", &again, key).ok());
    CHECK(again.invocation().outcome() == FUNCTION_ERROR);
  }
}

TEST_CASE("restart: what was cut off has failed, clearly, and no file of it is left") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  const auto done = world.Begin(world.VersionRequest(f, "slow.handler"));
  Until([&] { return world.node->prepares() == 1; });
  // As a kill would leave it: not done in the metadata, files in the way.
  const std::string name = f + "/invocations/" + world.state->uuids.Next();
  std::string operation_body, version_body;
  CHECK(world.state->metadata
            ->Write([&](MetadataTransaction& t) {
              operation_body = t.Get(Kind::kOperation, done.name())->body;
              version_body = t.Get(Kind::kVersion, f + "/versions/2")->body;
              return t.PutCall({f, "cut", "digest", name, absl::nullopt}, absl::InfiniteFuture());
            })
            .ok());
  world.Stop();
  {
    auto metadata = *OpenSqliteMetadata(world.folder + "/state/metadata.db");
    CHECK(metadata
              ->Write([&](MetadataTransaction& t) {
                CHECK(t.Update(Kind::kVersion, {f + "/versions/2", f, "", "", version_body}).ok());
                return t.Update(Kind::kOperation, {done.name(), kTenant, "", "", operation_body});
              })
              .ok());
  }
  std::ofstream(world.folder + "/state/code/building/left") << "x";
  std::ofstream(world.folder + "/state/code/" + DigestHex(DigestOf("orphan"))) << "orphan";
  world.Start();
  CHECK(Reason(world.Wait(done.name()).error()) == "HEARTHD_RESTARTED");
  GetVersionRequest get;
  get.set_name(f + "/versions/2");
  Version version;
  grpc::ClientContext context;
  REQUIRE(world.functions->GetVersion(&context, get, &version).ok());
  CHECK(version.state() == Version::FAILED);
  CHECK(std::filesystem::is_empty(world.folder + "/state/code/building"));
  CHECK_FALSE(
      std::filesystem::exists(world.folder + "/state/code/" + DigestHex(DigestOf("orphan"))));
  CHECK(UsageOf(world, f).outcomes["INSTANCE_LOST"] == 1);
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "still there", &response).ok());
  CHECK(response.payload() == "still there");
}

TEST_CASE("logs: a follower sees what comes, and ends when it leaves or the function goes") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  TailLogsRequest tail;
  tail.set_parent(f);
  tail.set_follow(true);
  grpc::ClientContext context;
  auto reader = world.logs->TailLogs(&context, tail);
  InvokeResponse response;
  REQUIRE(world.Invoke(f, "x", &response).ok());
  TailLogsResponse lines;
  REQUIRE(reader->Read(&lines));
  CHECK(lines.entries(0).text().rfind("START RequestId: ", 0) == 0);
  CHECK_FALSE(lines.entries(0).cursor().empty());
  context.TryCancel();
  while (reader->Read(&lines)) {
  }
  CHECK(reader->Finish().error_code() == grpc::StatusCode::CANCELLED);
  tail.set_after_cursor("nonsense");
  grpc::ClientContext wrong;
  auto refused = world.logs->TailLogs(&wrong, tail);
  CHECK_FALSE(refused->Read(&lines));
  CHECK(Reason(refused->Finish()) == "INVALID_FIELD");
}

TEST_CASE("server: many clients at once, none lost or mixed up, each once in the ledger") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  std::atomic<int> wrong{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 25; ++i) {
        const std::string mine = std::to_string(c * 100 + i);
        InvokeResponse response;
        if (!world.Invoke(f, mine, &response).ok() || response.payload() != mine) ++wrong;
      }
    });
  }
  for (auto& client : clients) client.join();
  CHECK(wrong == 0);
  CHECK(UsageOf(world, f).outcomes["SUCCEEDED"] == 200);
  ListInvocationsRequest list;
  list.set_parent(f);
  list.set_page_size(90);
  std::set<std::string> seen;
  do {
    ListInvocationsResponse page;
    grpc::ClientContext context;
    REQUIRE(world.invocations->ListInvocations(&context, list, &page).ok());
    for (const auto& invocation : page.invocations()) seen.insert(invocation.name());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  CHECK(seen.size() == 200);
}

TEST_CASE("server: a second hearthd on the same state is refused, and says why") {
  World world;
  const auto second = State::Open(world.folder + "/state", world.folder + "/images");
  CHECK(absl::IsFailedPrecondition(second.status()));
  CHECK(second.status().message().find("another hearthd") != absl::string_view::npos);
}

}  // namespace hearth::control
