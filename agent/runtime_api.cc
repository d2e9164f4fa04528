// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime_api.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::FunctionError;

namespace {

constexpr absl::string_view kBase = "/2018-06-01/runtime/";
const char kTypeHeader[] = "lambda-runtime-function-error-type";
const char kBodyTrailer[] = "lambda-runtime-function-error-body";
const char kModeHeader[] = "lambda-runtime-function-response-mode";

std::shared_ptr<const std::string> Share(std::string text) {
  return std::make_shared<const std::string>(std::move(text));
}

// What goes into a header must not end it.
std::string HeaderValue(absl::string_view value) {
  std::string clean(value);
  for (char& c : clean) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return clean;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RuntimeApi>> RuntimeApi::Create(EventLoop* loop, uint16_t port,
                                                               RuntimeApiDelegate* delegate) {
  std::unique_ptr<RuntimeApi> api(new RuntimeApi(delegate));
  ASSIGN_OR_RETURN(api->server_, HttpServer::Create(loop, port, api.get()));
  return api;
}

void RuntimeApi::RuntimeStarted(uint64_t max_response_bytes) {
  max_response_bytes_ = max_response_bytes == 0 ? kMaxResponseBytes : max_response_bytes;
  Advance(RuntimeEvent::kStart);
}

void RuntimeApi::RuntimeExited() {
  Advance(RuntimeEvent::kExit);
  responder_ = nullptr;
  waiter_ = nullptr;
  offer_pending_ = false;
  body_ = std::string();
  invocation_ = RuntimeInvocation();
  server_->CloseAll();
}

bool RuntimeApi::Offer(RuntimeInvocation invocation) {
  offer_pending_ = phase_ == RuntimePhase::kSuspended;
  if (offer_pending_ ? !Restore("") : !Advance(RuntimeEvent::kInvoke)) return false;
  invocation_ = std::move(invocation);
  taken_ = false;
  if (!offer_pending_ && waiter_ != nullptr) ServeInvocation(std::exchange(waiter_, nullptr));
  return true;
}

bool RuntimeApi::PrepareSnapshot() {
  if (waiter_ == nullptr || waiter_->request().Header(kSnapshotHeader).empty()) return false;
  if (!Advance(RuntimeEvent::kPrepare)) return false;
  std::exchange(waiter_, nullptr)->Respond(204, {}, nullptr);
  return true;
}

bool RuntimeApi::Restore(std::string environment) {
  if (!Advance(RuntimeEvent::kRestore)) return false;
  environment_ = std::move(environment);
  if (waiter_ != nullptr) ServeRestore(std::exchange(waiter_, nullptr));
  return true;
}

void RuntimeApi::ServeRestore(HttpConnection* connection) {
  const bool takes_environment = !connection->request().Header(kSnapshotHeader).empty();
  connection->Respond(200, {}, takes_environment ? Share(environment_) : nullptr);
}

void RuntimeApi::PauseResponse(bool paused) {
  if (responder_ != nullptr && streaming_) responder_->SetReading(!paused);
}

bool RuntimeApi::Advance(RuntimeEvent event) {
  const std::optional<RuntimePhase> next = NextPhase(phase_, event);
  if (!next.has_value()) return false;
  phase_ = *next;
  return true;
}

RuntimeApi::Target RuntimeApi::TargetOf(const HttpRequest& request) {
  absl::string_view path = request.path;
  if (!absl::ConsumePrefix(&path, kBase)) return {};
  if (request.method == "GET") {
    if (path == "restore/next") return {Route::kRestoreNext, ""};
    return {path == "invocation/next" ? Route::kNext : Route::kNone, ""};
  }
  if (request.method != "POST") return {};
  if (path == "init/error") return {Route::kInitError, ""};
  if (path == "restore/error") return {Route::kRestoreError, ""};
  if (!absl::ConsumePrefix(&path, "invocation/")) return {};
  const size_t slash = path.find('/');
  if (slash == absl::string_view::npos) return {};
  const absl::string_view action = path.substr(slash + 1);
  const std::string id(path.substr(0, slash));
  if (action == "response") return {Route::kResponse, id};
  if (action == "error") return {Route::kError, id};
  return {};
}

void RuntimeApi::Refuse(HttpConnection* connection, int status, absl::string_view type,
                        absl::string_view message) {
  connection->Respond(
      status, {{"Content-Type", "application/json"}},
      Share(absl::StrCat("{\"errorMessage\":\"", message, "\",\"errorType\":\"", type, "\"}\n")));
}

void RuntimeApi::Accepted(HttpConnection* connection) {
  connection->Respond(202, {{"Content-Type", "application/json"}}, Share("{\"status\":\"OK\"}\n"));
}

bool RuntimeApi::IsCurrent(HttpConnection* connection, const Target& target) {
  if (!invocation_.id.empty() && target.invocation_id == invocation_.id) return true;
  Refuse(connection, 400, "InvalidRequestID", "this is not the id of the current invocation");
  return false;
}

void RuntimeApi::OnHeaders(HttpConnection* connection) {
  const Target target = TargetOf(connection->request());
  switch (target.route) {
    case Route::kNone:
      return Refuse(connection, 404, "NotFound", "the Runtime API has no such path or method");
    case Route::kResponse:
      if (IsCurrent(connection, target)) BeginResponse(connection);
      return;
    case Route::kError:
      if (!IsCurrent(connection, target)) return;
      break;
    case Route::kInitError:
    case Route::kRestoreError:
      break;
    case Route::kNext:
    case Route::kRestoreNext:
      return;
  }
  error_bodies_[connection];
}

void RuntimeApi::BeginResponse(HttpConnection* connection) {
  const HttpRequest& request = connection->request();
  const std::string& mode = request.Header(kModeHeader);
  if (!mode.empty() && mode != "streaming") {
    return Refuse(connection, 400, "InvalidFunctionResponseMode",
                  "the only response mode that can be asked for is streaming");
  }
  if (!Advance(RuntimeEvent::kResponseBegin)) {
    return Refuse(connection, 403, "InvalidStateTransition",
                  absl::StrCat("no response is expected in state ", RuntimePhaseName(phase_)));
  }
  responder_ = connection;
  streaming_ = !mode.empty();
  body_.clear();
  if (!streaming_ && request.content_length.value_or(0) > max_response_bytes_) {
    return RefuseTooLong(connection);
  }
  if (streaming_) delegate_->OnResponseBegin(request.Header("content-type"));
}

void RuntimeApi::OnBody(HttpConnection* connection, absl::string_view data) {
  auto error = error_bodies_.find(connection);
  if (error != error_bodies_.end()) {
    // What is over the limit of an error's description is left out, the error itself is not.
    const size_t room = kMaxErrorBodyBytes - error->second.size();
    error->second.append(data.data(), std::min(data.size(), room));
    return;
  }
  if (connection != responder_) return;
  if (streaming_) return delegate_->OnResponseData(data);
  if (body_.size() + data.size() > max_response_bytes_) return RefuseTooLong(connection);
  body_.append(data.data(), data.size());
}

// As Lambda has it: the event is not served again, for what the handler did would be done twice. A
// runtime may still say what came of it; when it asks for the next instead, this is what did.
void RuntimeApi::RefuseResponse(const char* type, std::string message) {
  responder_ = nullptr;
  body_ = std::string();
  invocation_.payload.reset();
  Advance(RuntimeEvent::kResponseRefused);
  refusal_.set_type(type);
  refusal_.set_message(std::move(message));
}

void RuntimeApi::RefuseTooLong(HttpConnection* connection) {
  RefuseResponse("Function.ResponseSizeTooLarge",
                 absl::StrCat("the response is over the limit of ", max_response_bytes_, " bytes"));
  Refuse(connection, 413, "RequestEntityTooLarge",
         absl::StrCat("a response may have ", max_response_bytes_, " bytes"));
}

void RuntimeApi::OnMessageEnd(HttpConnection* connection) {
  if (connection == responder_) return FinishResponse(connection);
  const Target target = TargetOf(connection->request());
  if (target.route == Route::kNext) return HandleNext(connection);
  if (target.route == Route::kRestoreNext) return HandleRestoreNext(connection);
  if (error_bodies_.count(connection) > 0) return FinishError(connection, target);
  Refuse(connection, 403, "InvalidStateTransition", "the invocation has ended meanwhile");
}

void RuntimeApi::FinishResponse(HttpConnection* connection) {
  responder_ = nullptr;
  Advance(RuntimeEvent::kResponseEnd);
  invocation_.payload.reset();  // No one can ask for it again.
  Accepted(connection);
  if (!streaming_) {
    const std::string body = std::exchange(body_, std::string());
    delegate_->OnResponseBegin(connection->request().Header("content-type"));
    delegate_->OnResponseData(body);
    return delegate_->OnResponseEnd(nullptr);
  }
  const auto& trailers = connection->request().trailers;
  const auto type = trailers.find(kTypeHeader);
  if (type == trailers.end()) return delegate_->OnResponseEnd(nullptr);
  const auto body = trailers.find(kBodyTrailer);
  std::string decoded;
  // Base64 by the contract; some runtimes send it as it is.
  if (body != trailers.end() && !absl::Base64Unescape(body->second, &decoded)) {
    decoded = body->second;
  }
  const FunctionError error = ParseFunctionError(type->second, decoded);
  delegate_->OnResponseEnd(&error);
}

void RuntimeApi::FinishError(HttpConnection* connection, const Target& target) {
  const std::string body = std::exchange(error_bodies_[connection], std::string());
  error_bodies_.erase(connection);
  // Another invocation may have begun while it was on its way.
  if (target.route == Route::kError && !IsCurrent(connection, target)) return;
  const RuntimeEvent event = target.route == Route::kInitError      ? RuntimeEvent::kInitError
                             : target.route == Route::kRestoreError ? RuntimeEvent::kRestoreError
                                                                    : RuntimeEvent::kError;
  if (!Advance(event)) {
    return Refuse(connection, 403, "InvalidStateTransition",
                  absl::StrCat("no error is expected in state ", RuntimePhaseName(phase_)));
  }
  FunctionError error = ParseFunctionError(connection->request().Header(kTypeHeader), body);
  Accepted(connection);
  if (event == RuntimeEvent::kInitError) return delegate_->OnInitError(std::move(error));
  if (event == RuntimeEvent::kRestoreError) return delegate_->OnRestoreError(std::move(error));
  delegate_->OnInvocationError(std::move(error));
}

void RuntimeApi::HandleNext(HttpConnection* connection) {
  if (phase_ == RuntimePhase::kRefused) delegate_->OnInvocationError(refusal_);
  if (!Advance(RuntimeEvent::kNext)) {
    return Refuse(
        connection, 403, "InvalidStateTransition",
        absl::StrCat("no invocation can be asked for in state ", RuntimePhaseName(phase_)));
  }
  if (phase_ == RuntimePhase::kInvoking) return ServeInvocation(connection);
  if (std::exchange(offer_pending_, false)) {
    Advance(RuntimeEvent::kInvoke);
    return ServeInvocation(connection);
  }
  WaitWith(connection);
  environment_ = std::string();
  invocation_ = RuntimeInvocation();
  delegate_->OnRuntimeIdle();
}

void RuntimeApi::HandleRestoreNext(HttpConnection* connection) {
  if (!Advance(RuntimeEvent::kRestoreNext)) {
    return Refuse(connection, 403, "InvalidStateTransition",
                  absl::StrCat("no restore is waited for in state ", RuntimePhaseName(phase_)));
  }
  // Its connection broke, and it asks again.
  if (phase_ == RuntimePhase::kRestoring) return ServeRestore(connection);
  WaitWith(connection);
  delegate_->OnRuntimeSuspended();
}

void RuntimeApi::WaitWith(HttpConnection* connection) {
  if (waiter_ != nullptr)
    Refuse(waiter_, 403, "InvalidStateTransition", "this was asked for again");
  waiter_ = connection;
}

void RuntimeApi::ServeInvocation(HttpConnection* connection) {
  taken_ = true;
  HttpHeaders headers = {
      {"Content-Type", invocation_.content_type.empty() ? "application/json"
                                                        : HeaderValue(invocation_.content_type)},
      {"Lambda-Runtime-Aws-Request-Id", HeaderValue(invocation_.id)},
      {"Lambda-Runtime-Deadline-Ms", absl::StrCat(invocation_.deadline_unix_ms)}};
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) headers.emplace_back(name, HeaderValue(value));
  };
  add("Lambda-Runtime-Invoked-Function-Arn", invocation_.function_arn);
  add("Lambda-Runtime-Trace-Id", invocation_.trace_id);
  add("Lambda-Runtime-Client-Context", invocation_.client_context);
  connection->Respond(200, headers, invocation_.payload);
}

void RuntimeApi::OnTruncated(HttpConnection* connection) {
  error_bodies_.erase(connection);
  Refuse(connection, 400, "TruncatedHTTPRequest", "the request ended before its body did");
  OnClosed(connection);
}

void RuntimeApi::OnClosed(HttpConnection* connection) {
  error_bodies_.erase(connection);
  if (connection == waiter_) waiter_ = nullptr;
  if (connection != responder_) return;
  if (!streaming_) {
    return RefuseResponse("Runtime.TruncatedResponse", "the runtime's response was cut short");
  }
  responder_ = nullptr;
  // Part of it is on its way to the caller already.
  Advance(RuntimeEvent::kResponseEnd);
  FunctionError error;
  error.set_type("Runtime.TruncatedResponse");
  error.set_message("the runtime closed its connection in the middle of a streamed response");
  delegate_->OnResponseEnd(&error);
}

}  // namespace hearth::agent
