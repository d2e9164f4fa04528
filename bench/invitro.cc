// SPDX-License-Identifier: Apache-2.0
#include "bench/invitro.h"

#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "hearth/v1/services.grpc.pb.h"
#include "invitro/faas.grpc.pb.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

// Calls that are under way when the server ends get this long.
constexpr auto kGrace = std::chrono::seconds(5);
// Of a response that is shown in an error.
constexpr size_t kShownBytes = 80;

bool IsLoopback(const std::string& host) {
  in_addr v4{};
  if (host == "localhost" || host == "[::1]") return true;
  return inet_pton(AF_INET, host.c_str(), &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127;
}

absl::StatusOr<uint32_t> Whole(const nlohmann::json& object, const char* field) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_number_unsigned() || it->get<uint64_t>() > UINT32_MAX) {
    return absl::InternalError(
        absl::StrCat("the function's response has no ", field, " that is a whole 32-bit number"));
  }
  return it->get<uint32_t>();
}

grpc::StatusCode CodeOf(v1::Outcome outcome) {
  switch (outcome) {
    case v1::FUNCTION_ERROR:
      return grpc::StatusCode::UNKNOWN;
    case v1::TIMED_OUT:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case v1::OUT_OF_MEMORY:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case v1::INSTANCE_LOST:
      return grpc::StatusCode::UNAVAILABLE;
    default:
      return grpc::StatusCode::INTERNAL;
  }
}

// What the caller of Execute gets for an invocation that hearthd answered.
grpc::Status Translate(const v1::InvokeResponse& response, faas::FaasReply& reply) {
  const v1::Invocation& invocation = response.invocation();
  if (invocation.outcome() != v1::SUCCEEDED) {
    return {CodeOf(invocation.outcome()),
            absl::StrCat(v1::Outcome_Name(invocation.outcome()), " of ", invocation.name(), ": ",
                         invocation.error().type(), ": ", invocation.error().message())};
  }
  auto parsed = ParseTraceResponse(response.payload());
  if (!parsed.ok()) {
    return {grpc::StatusCode::INTERNAL, std::string(parsed.status().message())};
  }
  reply = *std::move(parsed);
  reply.set_message(
      absl::StrCat(v1::StartKind_Name(invocation.start_kind()), " ", invocation.name()));
  return grpc::Status::OK;
}

class Service : public faas::Executor::CallbackService {
 public:
  Service(const std::string& socket, std::string function) : function_(std::move(function)) {
    grpc::ChannelArguments arguments;
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    hearth_ = v1::InvocationService::NewStub(
        grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
  }

  grpc::ServerUnaryReactor* Execute(grpc::CallbackServerContext* context,
                                    const faas::FaasRequest* request,
                                    faas::FaasReply* reply) override {
    return new Execution(hearth_.get(), function_, context, *request, reply);
  }

 private:
  // One call. Deletes itself when gRPC is done with it.
  class Execution : public grpc::ServerUnaryReactor {
   public:
    Execution(v1::InvocationService::Stub* hearth, const std::string& function,
              grpc::CallbackServerContext* context, const faas::FaasRequest& request,
              faas::FaasReply* reply)
        : reply_(reply) {
      context_.set_deadline(context->deadline());
      request_.set_name(function);
      request_.set_payload(TracePayload(request));
      hearth->async()->Invoke(&context_, &request_, &response_,
                              [this](const grpc::Status& status) { Answer(status); });
    }
    void OnCancel() override { context_.TryCancel(); }
    void OnDone() override { delete this; }

   private:
    void Answer(const grpc::Status& status) {
      Finish(status.ok() ? Translate(response_, *reply_)
                         : grpc::Status(status.error_code(), "hearthd: " + status.error_message()));
    }

    faas::FaasReply* reply_;
    grpc::ClientContext context_;
    v1::InvokeRequest request_;
    v1::InvokeResponse response_;
  };

  std::string function_;
  std::unique_ptr<v1::InvocationService::Stub> hearth_;
};

class Server : public InvitroServer {
 public:
  Server(const std::string& socket, std::string function) : service_(socket, std::move(function)) {}
  ~Server() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kGrace);
  }

  absl::Status Listen(const std::string& listen) {
    ASSIGN_OR_RETURN(address_, ParseListen(listen));
    grpc::ServerBuilder builder;
    // Another server's port is an error, not to be shared.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    int port = 0;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    // A Unix socket is its owner's alone, as hearthd's is.
    const mode_t before = umask(0177);
    server_ = builder.BuildAndStart();
    umask(before);
    if (server_ == nullptr) return absl::UnavailableError("cannot listen on " + listen);
    if (!absl::StartsWith(address_, "unix:")) {
      address_ = absl::StrCat(address_.substr(0, address_.rfind(':')), ":", port);
    }
    return absl::OkStatus();
  }
  const std::string& address() const override { return address_; }

 private:
  Service service_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;  // Last: it goes before what it serves.
};

}  // namespace

absl::StatusOr<std::string> ParseListen(const std::string& listen) {
  absl::string_view rest = listen;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    if (rest.empty() || rest.size() >= sizeof(sockaddr_un::sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat("--listen ", listen,
                                                     ": a socket's path has 1 to ",
                                                     sizeof(sockaddr_un::sun_path) - 1, " bytes"));
    }
    return listen;
  }
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port > UINT16_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen ", listen, ": write unix:PATH or 127.0.0.1:PORT"));
  }
  if (!IsLoopback(listen.substr(0, colon))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", listen, ": only loopback addresses, for nobody is asked who they are"));
  }
  return listen;
}

std::string TracePayload(const faas::FaasRequest& request) {
  const nlohmann::json json = {{"runtimeInMilliSec", request.runtimeinmillisec()},
                               {"memoryInMebiBytes", request.memoryinmebibytes()}};
  return json.dump();
}

absl::StatusOr<faas::FaasReply> ParseTraceResponse(const std::string& payload) {
  const auto json = nlohmann::json::parse(payload, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InternalError(
        absl::StrCat("the function's response is no JSON object: ",
                     json.is_discarded() ? payload.substr(0, kShownBytes) : json.type_name()));
  }
  faas::FaasReply reply;
  ASSIGN_OR_RETURN(const uint32_t duration, Whole(json, "durationInMicroSec"));
  ASSIGN_OR_RETURN(const uint32_t memory, Whole(json, "memoryUsageInKb"));
  reply.set_durationinmicrosec(duration);
  reply.set_memoryusageinkb(memory);
  return reply;
}

absl::StatusOr<std::unique_ptr<InvitroServer>> InvitroServer::Start(const InvitroOptions& options) {
  auto server = std::make_unique<Server>(options.socket, options.function);
  RETURN_IF_ERROR(server->Listen(options.listen));
  return server;
}

}  // namespace hearth::bench
