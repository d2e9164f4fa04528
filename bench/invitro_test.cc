// SPDX-License-Identifier: Apache-2.0
// The bridge between invitro's contract and hearth.v1, with a hearthd that answers as it is told.
#include "bench/invitro.h"

#include <grpcpp/grpcpp.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/synchronization/notification.h"
#include "hearth/v1/services.grpc.pb.h"
#include "invitro/faas.grpc.pb.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

constexpr char kInvocation[] = "tenants/default/functions/f/invocations/7";

class FakeHearthd : public v1::InvocationService::Service {
 public:
  explicit FakeHearthd(const std::string& socket) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    REQUIRE(server_ != nullptr);
  }

  grpc::Status Invoke(grpc::ServerContext* context, const v1::InvokeRequest* request,
                      v1::InvokeResponse* response) override {
    last_request = *request;
    if (hang) {
      while (!context->IsCancelled()) std::this_thread::yield();
      cancelled.Notify();
      return grpc::Status::CANCELLED;
    }
    *response = answer;
    return status;
  }

  v1::InvokeRequest last_request;
  v1::InvokeResponse answer;
  grpc::Status status;
  bool hang = false;
  absl::Notification cancelled;

 private:
  std::unique_ptr<grpc::Server> server_;
};

struct Bridge {
  Bridge() : hearthd(folder() + "/hearthd.sock") {
    options.socket = folder() + "/hearthd.sock";
    options.function = "tenants/default/functions/f";
    auto started = InvitroServer::Start(options);
    INFO(started.status().message());
    REQUIRE(started.ok());
    server = *std::move(started);
    stub = faas::Executor::NewStub(
        grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()));
    v1::Invocation& invocation = *hearthd.answer.mutable_invocation();
    invocation.set_name(kInvocation);
    invocation.set_outcome(v1::SUCCEEDED);
    invocation.set_start_kind(v1::RESTORED);
    hearthd.answer.set_payload(R"({"durationInMicroSec": 50013, "memoryUsageInKb": 65572})");
  }
  ~Bridge() {
    server.reset();
    std::filesystem::remove_all(folder());
  }
  const std::string& folder() {
    if (folder_.empty()) {
      char path[] = "/tmp/hearth-invitro-XXXXXX";
      REQUIRE(mkdtemp(path) != nullptr);
      folder_ = path;
    }
    return folder_;
  }
  grpc::Status Execute(faas::FaasReply& reply, grpc::ClientContext&& context = {}) {
    faas::FaasRequest request;
    request.set_runtimeinmillisec(50);
    request.set_memoryinmebibytes(64);
    return stub->Execute(&context, request, &reply);
  }

  std::string folder_;
  FakeHearthd hearthd;
  InvitroOptions options;
  std::unique_ptr<InvitroServer> server;
  std::unique_ptr<faas::Executor::Stub> stub;
};

TEST_CASE("invitro: a call becomes an invocation of the function, and its answer the reply") {
  Bridge bridge;
  faas::FaasReply reply;
  const grpc::Status status = bridge.Execute(reply);
  INFO(status.error_message());
  REQUIRE(status.ok());
  CHECK(reply.durationinmicrosec() == 50013);
  CHECK(reply.memoryusageinkb() == 65572);
  CHECK(reply.message() == std::string("RESTORED ") + kInvocation);
  CHECK(bridge.hearthd.last_request.name() == "tenants/default/functions/f");
  const auto payload = nlohmann::json::parse(bridge.hearthd.last_request.payload());
  CHECK(payload == nlohmann::json{{"runtimeInMilliSec", 50}, {"memoryInMebiBytes", 64}});
}

TEST_CASE("invitro: an invocation that did not succeed is a status of its own") {
  Bridge bridge;
  const auto code = [&](v1::Outcome outcome) {
    bridge.hearthd.answer.mutable_invocation()->set_outcome(outcome);
    bridge.hearthd.answer.mutable_invocation()->mutable_error()->set_type("Function.Error");
    bridge.hearthd.answer.mutable_invocation()->mutable_error()->set_message("it broke");
    faas::FaasReply reply;
    const grpc::Status status = bridge.Execute(reply);
    CHECK(status.error_message() == absl::StrCat(v1::Outcome_Name(outcome), " of ", kInvocation,
                                                 ": Function.Error: it broke"));
    return status.error_code();
  };
  CHECK(code(v1::FUNCTION_ERROR) == grpc::StatusCode::UNKNOWN);
  CHECK(code(v1::TIMED_OUT) == grpc::StatusCode::DEADLINE_EXCEEDED);
  CHECK(code(v1::OUT_OF_MEMORY) == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(code(v1::INSTANCE_LOST) == grpc::StatusCode::UNAVAILABLE);
  CHECK(code(v1::OUTCOME_UNSPECIFIED) == grpc::StatusCode::INTERNAL);
}

TEST_CASE(
    "invitro: what hearthd refuses keeps its code, and a response of another kind is internal") {
  Bridge bridge;
  faas::FaasReply reply;
  bridge.hearthd.status = {grpc::StatusCode::NOT_FOUND, "no such function"};
  grpc::Status status = bridge.Execute(reply);
  CHECK(status.error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(status.error_message() == "hearthd: no such function");
  bridge.hearthd.status = grpc::Status::OK;
  bridge.hearthd.answer.set_payload("hello");
  status = bridge.Execute(reply);
  CHECK(status.error_code() == grpc::StatusCode::INTERNAL);
  CHECK_THAT(status.error_message(), Catch::Contains("no JSON object: hello"));
}

TEST_CASE("invitro: the caller's deadline reaches hearthd, which may stop") {
  Bridge bridge;
  bridge.hearthd.hang = true;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  faas::FaasReply reply;
  faas::FaasRequest request;
  CHECK(bridge.stub->Execute(&context, request, &reply).error_code() ==
        grpc::StatusCode::DEADLINE_EXCEEDED);
  bridge.hearthd.cancelled.WaitForNotification();
}

TEST_CASE("invitro: a hearthd that is not there is unavailable") {
  InvitroOptions options;
  options.socket = "/tmp/hearth-invitro-nobody/hearthd.sock";
  const auto server = InvitroServer::Start(options);
  REQUIRE(server.ok());
  const auto stub = faas::Executor::NewStub(
      grpc::CreateChannel((*server)->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  faas::FaasReply reply;
  const grpc::Status status = stub->Execute(&context, {}, &reply);
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK_THAT(status.error_message(), Catch::Contains("hearthd: "));
  // The port is taken now.
  options.listen = (*server)->address();
  const auto second = InvitroServer::Start(options);
  CHECK(second.status().code() == absl::StatusCode::kUnavailable);
  CHECK_THAT(std::string(second.status().message()), Catch::Contains(options.listen));
}

TEST_CASE("invitro: a Unix socket is its owner's alone") {
  Bridge bridge;
  InvitroOptions options = bridge.options;
  const std::string path = bridge.folder() + "/invitro.sock";
  options.listen = "unix:" + path;
  const auto server = InvitroServer::Start(options);
  REQUIRE(server.ok());
  CHECK((*server)->address() == options.listen);
  struct stat info;
  REQUIRE(stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  const auto stub = faas::Executor::NewStub(
      grpc::CreateChannel(options.listen, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  faas::FaasReply reply;
  CHECK(stub->Execute(&context, {}, &reply).ok());
}

TEST_CASE("invitro: it listens on loopback addresses and Unix sockets only") {
  for (const char* good : {"127.0.0.1:8080", "127.1.2.3:0", "localhost:65535", "[::1]:80",
                           "unix:/run/x.sock", "unix:x"}) {
    INFO(good);
    CHECK(ParseListen(good).ok());
  }
  CHECK(ParseListen("unix:" + std::string(107, 'p')).ok());
  for (const std::string& bad :
       {std::string("unix:"), "unix:" + std::string(108, 'p'), std::string("0.0.0.0:80"),
        std::string(":80"), std::string("[::]:80"), std::string("example.org:80"),
        std::string("127.0.0.1"), std::string("127.0.0.1:"), std::string("127.0.0.1:65536"),
        std::string("127.0.0.1:-1"), std::string("128.0.0.1:80"), std::string()}) {
    INFO(bad);
    CHECK(ParseListen(bad).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("invitro: a response has two whole numbers of 32 bits, and may have more") {
  CHECK(
      ParseTraceResponse(R"({"durationInMicroSec": 4294967295, "memoryUsageInKb": 0, "other": []})")
          ->durationinmicrosec() == UINT32_MAX);
  for (const char* bad :
       {"", "[]", "null", "{}", R"({"durationInMicroSec": 1})",
        R"({"durationInMicroSec": -1, "memoryUsageInKb": 1})",
        R"({"durationInMicroSec": 4294967296, "memoryUsageInKb": 1})",
        R"({"durationInMicroSec": 1, "memoryUsageInKb": "1"})",
        R"({"durationInMicroSec": 1.5, "memoryUsageInKb": 1})", "{\"durationInMicroSec\": 1"}) {
    INFO(bad);
    CHECK(ParseTraceResponse(bad).status().code() == absl::StatusCode::kInternal);
  }
}

}  // namespace
}  // namespace hearth::bench
