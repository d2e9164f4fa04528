// SPDX-License-Identifier: Apache-2.0
// The AWS Lambda Runtime API, version 2018-06-01, on loopback. This class speaks HTTP and keeps the
// phase; what an invocation is and who pays for it is its delegate's business.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/http_server.h"
#include "agent/runtime_phase.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

inline constexpr uint16_t kRuntimeApiPort = 9001;
// Lambda's limit of a buffered response: 6 MiB and 100 bytes.
inline constexpr uint64_t kMaxResponseBytes = 6 * 1024 * 1024 + 100;
// Ours: with a GET of invocation/next, says that the runtime has hooks: when a snapshot is to come
// the answer is 204. With restore/next, that it takes an environment.
inline constexpr char kSnapshotHeader[] = "hearth-runtime-snapshot";
inline constexpr size_t kMaxErrorBodyBytes = 256 * 1024;

class RuntimeApiDelegate {
 public:
  virtual ~RuntimeApiDelegate() = default;
  // The runtime asked for its next invocation: initialisation, or an invocation, is over.
  virtual void OnRuntimeIdle() = 0;
  // It asked for restore/next: initialisation, or its before-snapshot hooks, are over.
  virtual void OnRuntimeSuspended() = 0;
  // Of the initialisation or of a before-snapshot hook.
  virtual void OnInitError(agent::v1::FunctionError error) = 0;
  virtual void OnRestoreError(agent::v1::FunctionError error) = 0;
  // A response: begin, data, end. A buffered one arrives whole, all three at once.
  virtual void OnResponseBegin(const std::string& content_type) = 0;
  virtual void OnResponseData(absl::string_view data) = 0;
  // With an error, the response broke off: the trailers of a streamed one said so, or it was cut.
  virtual void OnResponseEnd(const agent::v1::FunctionError* error) = 0;
  virtual void OnInvocationError(agent::v1::FunctionError error) = 0;
};

// What `next` answers.
struct RuntimeInvocation {
  std::string id;
  int64_t deadline_unix_ms = 0;
  std::string content_type;
  std::string function_arn;
  std::string trace_id;
  std::string client_context;
  std::shared_ptr<const std::string> payload;
};

class RuntimeApi : public HttpHandler {
 public:
  // Port 0 takes a free one, for tests.
  static absl::StatusOr<std::unique_ptr<RuntimeApi>> Create(EventLoop* loop, uint16_t port,
                                                            RuntimeApiDelegate* delegate);
  uint16_t port() const { return server_->port(); }
  RuntimePhase phase() const { return phase_; }

  // A runtime's process was started. `max_response_bytes` 0 means kMaxResponseBytes.
  void RuntimeStarted(uint64_t max_response_bytes);
  // It has ended: all connections are closed.
  void RuntimeExited();
  // Gives the runtime an invocation; only in kIdle and kSuspended. A suspended runtime is told to
  // go on first, and gets it when it asks for one.
  bool Offer(RuntimeInvocation invocation);
  // Tells an idle runtime that a snapshot is to come, so that it calls its hooks and asks for
  // restore/next. False when it has not said, with its request, that it has any.
  bool PrepareSnapshot();
  // Answers restore/next; only in kSuspended. `environment`, "NAME=value" ended by a NUL each, is
  // for a runtime that knows the header kSnapshotHeader; to others an answer has no body.
  bool Restore(std::string environment);
  // Whether `next` has answered with the current invocation.
  bool offered_was_taken() const { return taken_; }

  // Back-pressure on a streamed response.
  void PauseResponse(bool paused);

  void OnHeaders(HttpConnection* connection) override;
  void OnBody(HttpConnection* connection, absl::string_view data) override;
  void OnMessageEnd(HttpConnection* connection) override;
  void OnTruncated(HttpConnection* connection) override;
  void OnClosed(HttpConnection* connection) override;

 private:
  enum class Route {
    kNone,
    kNext,
    kRestoreNext,
    kInitError,
    kRestoreError,
    kResponse,
    kError,
  };
  struct Target {
    Route route = Route::kNone;
    std::string invocation_id;
  };
  explicit RuntimeApi(RuntimeApiDelegate* delegate) : delegate_(delegate) {}
  static Target TargetOf(const HttpRequest& request);
  bool Advance(RuntimeEvent event);
  void Refuse(HttpConnection* connection, int status, absl::string_view type,
              absl::string_view message);
  void Accepted(HttpConnection* connection);
  void HandleNext(HttpConnection* connection);
  void HandleRestoreNext(HttpConnection* connection);
  void ServeRestore(HttpConnection* connection);
  void WaitWith(HttpConnection* connection);
  void BeginResponse(HttpConnection* connection);
  void FinishResponse(HttpConnection* connection);
  void RefuseResponse(const char* type, std::string message);
  void RefuseTooLong(HttpConnection* connection);
  void FinishError(HttpConnection* connection, const Target& target);
  void ServeInvocation(HttpConnection* connection);
  bool IsCurrent(HttpConnection* connection, const Target& target);

  RuntimeApiDelegate* const delegate_;
  std::unique_ptr<HttpServer> server_;
  RuntimePhase phase_ = RuntimePhase::kAbsent;
  uint64_t max_response_bytes_ = kMaxResponseBytes;
  RuntimeInvocation invocation_;
  bool taken_ = false;
  HttpConnection* waiter_ = nullptr;     // Asked for the next invocation, or for restore/next.
  bool offer_pending_ = false;           // `invocation_` waits for the end of the restore.
  std::string environment_;              // What the restore brought.
  HttpConnection* responder_ = nullptr;  // Is sending the response.
  bool streaming_ = false;
  std::string body_;                  // Of the responder, when it is not streaming.
  agent::v1::FunctionError refusal_;  // In kRefused: what the invocation ends with, if it is left.
  std::map<HttpConnection*, std::string> error_bodies_;
};

// The error that a runtime reported in a body {"errorMessage", "errorType", "stackTrace"}. The type
// is the body's, or the header's when the body has none; a header that is not of the form Runtime.X
// or Function.X counts as Runtime.Unknown or Function.Unknown.
agent::v1::FunctionError ParseFunctionError(absl::string_view header_type, absl::string_view body);

}  // namespace hearth::agent
