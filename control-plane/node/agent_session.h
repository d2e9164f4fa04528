// SPDX-License-Identifier: Apache-2.0
// The host's end of one hearth.agent.v1 connection.
//
// The agent is hostile: the multiplexer checks what it sends, this class bounds how long it may
// take, and the first breach or missed deadline ends the connection for good.
//
// Threads: all public methods are thread-safe. The connection is read on the event loop's thread;
// whoever has something to send writes it at once, and the loop continues what the socket did not
// take. Deadlines are SteadyNow()'s.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/node/node.h"
#include "hearth/agent/v1/agent.pb.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/steady_clock.h"
#include "vmm/base/unique_fd.h"
#include "wire/mux.h"

namespace hearth::control {

struct AgentSessionOptions {
  std::string build;
  wire::VersionRange versions = {wire::kAgentMinVersion, wire::kAgentMaxVersion};
  // Both called on the loop's thread or on one that calls a method, without a lock held.
  std::function<void(agent::v1::LogLines)> on_log;
  // Once, when the agent cannot serve any more.
  std::function<void()> on_unusable;
};

struct SessionInvocation {
  agent::v1::Invoke invoke;   // Without its streams.
  absl::string_view payload;  // Lives as long as the call of Invoke().
  uint64_t max_response_bytes = 0;
  absl::Duration cancel_grace;
};

// How an invocation ended, as far as the connection shows it.
struct SessionResult {
  bool sent = false;  // False: nothing of the call left hearthd, so user code did not start.
  std::optional<agent::v1::Reply> reply;
  bool response_whole = false;
  bool response_too_large = false;
  absl::Status stopped;     // Not OK: why hearthd stopped it (the client, or the response).
  absl::Status connection;  // Not OK: the connection ended before the reply.
  uint64_t request_bytes = 0;
  uint64_t response_bytes = 0;
  absl::Time first_byte = absl::InfinitePast();  // When the response began to come.
};

class AgentSession : public std::enable_shared_from_this<AgentSession>, private wire::MuxDelegate {
 public:
  // `stream` is connected and non-blocking; `loop` runs until the session was closed.
  static std::shared_ptr<AgentSession> Start(EventLoop* loop, UniqueFd stream,
                                             AgentSessionOptions options);

  // Waits for the agent's Hello. FAILED_PRECONDITION: no version in common.
  absl::Status WaitReady(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes a call and waits for its reply; the reply's error as a status. No answer in time ends the
  // connection.
  absl::StatusOr<agent::v1::Reply> Call(agent::v1::Call call, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // One at a time. Blocks until the agent has answered or the connection has ended.
  SessionResult Invoke(SessionInvocation invocation, ResponseSink& response,
                       const Cancellation& cancellation) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the connection; calls under way fail with `why`. No-op when it has ended.
  void Close(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);

  // As Close(), once what the agent sent before its end is read. Does not wait for that.
  void CloseAfterReading(const absl::Status& why);

  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool usable() const { return usable_.load(std::memory_order_acquire); }
  std::string boot_id() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Active;

  AgentSession(EventLoop* loop, UniqueFd stream, AgentSessionOptions options);

  void OnEvents(uint32_t events) ABSL_LOCKS_EXCLUDED(mutex_);
  void ReadSome() ABSL_LOCKS_EXCLUDED(mutex_);
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellIfUnusable() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status SendInvoke(const agent::v1::Invoke& invoke, Active* active)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendCancel(Active* active) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PumpInvocation(Active* active, ResponseSink& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool PassOnResponse(Active* active, ResponseSink& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool PassOnRequest(Active* active) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // wire::MuxDelegate; called from inside the multiplexer, so with the lock held.
  void OnReady(const agent::v1::Hello& peer, uint32_t version) override;
  void OnReply(agent::v1::Reply reply) override;
  void OnEvent(agent::v1::Event event) override;
  void OnStreamData(uint32_t stream_id, absl::string_view data) override;
  void OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) override;
  void OnStreamWritable(uint32_t stream_id) override;
  void OnOutputRoom() override;

  EventLoop* const loop_;
  const AgentSessionOptions options_;
  std::atomic<bool> usable_{true};
  std::atomic<bool> told_unusable_{false};

  mutable absl::Mutex mutex_;
  SteadyCondVar changed_;
  UniqueFd stream_ ABSL_GUARDED_BY(mutex_);  // Closed on the loop's thread only.
  wire::Mux mux_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::string boot_id_ ABSL_GUARDED_BY(mutex_);
  uint64_t written_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, std::optional<agent::v1::Reply>> replies_ ABSL_GUARDED_BY(mutex_);
  std::vector<agent::v1::LogLines> logs_ ABSL_GUARDED_BY(mutex_);  // To be told without the lock.
  bool telling_logs_ ABSL_GUARDED_BY(mutex_) = false;
  Active* active_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace hearth::control
