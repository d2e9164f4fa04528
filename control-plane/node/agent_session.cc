// SPDX-License-Identifier: Apache-2.0
// The connection and its calls; invocations are in agent_session_invoke.cc.
#include "control-plane/node/agent_session.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/agent_session_active.h"
#include "vmm/base/status.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

constexpr size_t kReadBytes = 64 * 1024;
// After so many reads the other connections of the loop get their turn.
constexpr int kReadsPerTurn = 8;
constexpr size_t kMaxAgentErrorBytes = 1024;

absl::Status StatusOf(const agent::v1::Error& error) {
  constexpr int kLastCode = static_cast<int>(absl::StatusCode::kUnauthenticated);
  const bool known = error.code() > 0 && error.code() <= kLastCode;
  return absl::Status(
      known ? static_cast<absl::StatusCode>(error.code()) : absl::StatusCode::kUnknown,
      absl::StrCat("the agent: ", wire::SanitizeText(error.message(), kMaxAgentErrorBytes)));
}

absl::string_view NameOf(const agent::v1::Call& call) {
  switch (call.command_case()) {
    case agent::v1::Call::kConfigureInstance:
      return "ConfigureInstance";
    case agent::v1::Call::kStartRuntime:
      return "StartRuntime";
    case agent::v1::Call::kPrepareSnapshot:
      return "PrepareSnapshot";
    case agent::v1::Call::kRestoreInstance:
      return "RestoreInstance";
    case agent::v1::Call::kShutdown:
      return "Shutdown";
    default:
      return "a call";
  }
}

}  // namespace

AgentSession::AgentSession(EventLoop* loop, UniqueFd stream, AgentSessionOptions options)
    : loop_(loop),
      options_(std::move(options)),
      stream_(std::move(stream)),
      mux_({.side = wire::MuxSide::kHost,
            .versions = options_.versions,
            .build = options_.build,
            .boot_id = ""},
           this) {}

std::shared_ptr<AgentSession> AgentSession::Start(EventLoop* loop, UniqueFd stream,
                                                  AgentSessionOptions options) {
  std::shared_ptr<AgentSession> session(
      new AgentSession(loop, std::move(stream), std::move(options)));
  loop->Post([session] {
    absl::MutexLock lock(&session->mutex_);
    if (!session->status_.ok()) return;
    // Edge-triggered, so that no thread but the loop's ever has to change what is watched.
    const absl::Status added =
        session->loop_->Add(session->stream_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                            [session](uint32_t events) { session->OnEvents(events); });
    if (!added.ok()) session->Fail(added);
  });
  return session;
}

void AgentSession::OnEvents(uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    absl::MutexLock lock(&mutex_);
    Flush();
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) ReadSome();
  TellIfUnusable();
}

void AgentSession::ReadSome() {
  std::array<char, kReadBytes> buffer;
  std::vector<agent::v1::LogLines> logs;
  {
    absl::MutexLock lock(&mutex_);
    for (int turn = 0; status_.ok() && stream_; ++turn) {
      if (turn == kReadsPerTurn) {
        loop_->Post([self = shared_from_this()] { self->OnEvents(EPOLLIN); });
        break;
      }
      const ssize_t count = recv(stream_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EAGAIN) break;
      if (count < 0) {
        Fail(ErrnoStatus("reading from the agent"));
      } else if (count == 0) {
        mux_.ReceiveEof().IgnoreError();
        Fail(absl::UnavailableError("the agent's connection was closed"));
      } else if (absl::Status received = mux_.Receive({buffer.data(), static_cast<size_t>(count)});
                 !received.ok()) {
        Fail(Annotate(received, "the agent broke its protocol"));
      }
      Flush();
    }
    logs.swap(logs_);
    telling_logs_ = !logs.empty();
  }
  if (logs.empty()) return;
  for (agent::v1::LogLines& lines : logs) options_.on_log(std::move(lines));
  absl::MutexLock lock(&mutex_);
  telling_logs_ = false;
  changed_.SignalAll();
}

void AgentSession::Flush() {
  while (status_.ok() && stream_) {
    const absl::string_view output = mux_.output();
    if (output.empty()) return;
    const ssize_t count =
        send(stream_.get(), output.data(), output.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;  // The loop goes on when there is room.
    if (count < 0) {
      // Why the agent closed may be among what it sent before: that is read first.
      return;
    }
    written_bytes_ += static_cast<uint64_t>(count);
    mux_.ConsumeOutput(static_cast<size_t>(count));
  }
}

void AgentSession::Fail(const absl::Status& why) {
  if (!status_.ok()) return;
  status_ = why;
  usable_.store(false, std::memory_order_release);
  changed_.SignalAll();
  shutdown(stream_.get(), SHUT_RDWR);
  loop_->Post([self = shared_from_this()] {
    absl::MutexLock lock(&self->mutex_);
    self->loop_->Remove(self->stream_.get());
    self->stream_.reset();
  });
}

void AgentSession::TellIfUnusable() {
  if (usable() || told_unusable_.exchange(true)) return;
  options_.on_unusable();
}

absl::Status AgentSession::WaitReady(absl::Time deadline) {
  absl::Status result;
  {
    absl::MutexLock lock(&mutex_);
    while (status_.ok() && !mux_.ready()) {
      if (changed_.WaitWithDeadline(&mutex_, deadline) && status_.ok() && !mux_.ready()) {
        Fail(absl::DeadlineExceededError("the agent did not say Hello in time"));
      }
    }
    result = status_;
  }
  TellIfUnusable();
  return result;
}

absl::StatusOr<agent::v1::Reply> AgentSession::Call(agent::v1::Call call, absl::Time deadline) {
  std::optional<agent::v1::Reply> reply;
  absl::Status failed;
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(status_);
    const std::string name(NameOf(call));
    ASSIGN_OR_RETURN(const uint64_t id, mux_.SendCall(std::move(call)));
    replies_[id] = std::nullopt;
    Flush();
    while (status_.ok() && !replies_[id].has_value()) {
      if (changed_.WaitWithDeadline(&mutex_, deadline) && status_.ok() &&
          !replies_[id].has_value()) {
        Fail(absl::DeadlineExceededError(
            absl::StrCat("the agent did not answer ", name, " in time")));
      }
    }
    reply = std::move(replies_[id]);
    replies_.erase(id);
    failed = status_;
  }
  TellIfUnusable();
  if (!reply.has_value()) return failed;
  if (reply->has_error()) return StatusOf(reply->error());
  return *std::move(reply);
}

void AgentSession::Close(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    Fail(why);
  }
  TellIfUnusable();
}

void AgentSession::CloseAfterReading(const absl::Status& why) {
  loop_->Post([self = shared_from_this(), why] {
    self->ReadSome();
    self->Close(why);
  });
}

absl::Status AgentSession::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

std::string AgentSession::boot_id() const {
  absl::MutexLock lock(&mutex_);
  return boot_id_;
}

void AgentSession::OnReady(const agent::v1::Hello& peer, uint32_t version) {
  mutex_.AssertHeld();
  (void)version;
  boot_id_ = wire::SanitizeText(peer.boot_id(), wire::kMaxHelloStringBytes);
  changed_.SignalAll();
}

void AgentSession::OnReply(agent::v1::Reply reply) {
  mutex_.AssertHeld();
  if (active_ != nullptr && reply.id() == active_->call_id) {
    active_->result.reply = std::move(reply);
  } else if (auto it = replies_.find(reply.id()); it != replies_.end()) {
    it->second = std::move(reply);
  }
  changed_.SignalAll();
}

void AgentSession::OnEvent(agent::v1::Event event) {
  mutex_.AssertHeld();
  if (event.has_log_lines()) {
    logs_.push_back(std::move(*event.mutable_log_lines()));
  } else if (event.has_runtime_exited()) {
    // Between invocations: there is no other use for this instance.
    usable_.store(false, std::memory_order_release);
  }
}

void AgentSession::OnStreamWritable(uint32_t stream_id) {
  (void)stream_id;
  changed_.SignalAll();
}

void AgentSession::OnOutputRoom() { changed_.SignalAll(); }

}  // namespace hearth::control
