// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/testing/fake_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

class FakeMachine final : public Machine {
 public:
  FakeMachine(const FakeScript& script, std::shared_ptr<FakeWorld> world, std::string id)
      : script_(script), world_(std::move(world)), id_(std::move(id)) {
    const int alive = ++world_->alive;
    int most = world_->most_alive;
    while (alive > most && !world_->most_alive.compare_exchange_weak(most, alive)) {
    }
  }
  ~FakeMachine() override {
    Stop(absl::InfinitePast()).IgnoreError();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start() override {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return ErrnoStatus("socketpair");
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    UniqueFd agent_end(ends[1]);
    UniqueFd wake(eventfd(0, EFD_CLOEXEC));
    {
      absl::MutexLock lock(&mutex_);
      host_end_.reset(ends[0]);
      wake_.reset(dup(wake.get()));
    }
    thread_ = std::thread([this, agent_end = std::move(agent_end),
                           wake = std::move(wake)]() mutable {
      {
        FakeAgent agent(script_, absl::StrCat("boot-", id_), std::move(agent_end), std::move(wake));
        agent.Run();
      }
      // As a real one: when its agent ends, so does the machine.
      End(MachineExit::Reason::kGuestReset, "the fake guest reset");
    });
    return absl::OkStatus();
  }

  absl::StatusOr<UniqueFd> AcceptAgent(absl::Time deadline) override {
    absl::MutexLock lock(&mutex_);
    while (script_.never_connects && !exit_.has_value()) {
      if (changed_.WaitWithDeadline(&mutex_, deadline)) {
        return absl::DeadlineExceededError("the guest's agent did not connect in time");
      }
    }
    if (!host_end_) return absl::UnavailableError("the machine has ended");
    return std::move(host_end_);
  }

  absl::Status Pause() override {
    ++world_->pauses;
    return absl::OkStatus();
  }
  absl::Status Resume() override {
    ++world_->resumes;
    if (world_->resume_fails.exchange(false)) return absl::UnavailableError("it cannot resume");
    return absl::OkStatus();
  }
  absl::Status Save(int state, int memory) override {
    if (world_->save_fails) return absl::UnavailableError("the fake machine cannot be saved");
    ++world_->saved;
    if (write(state, "state", 5) != 5 || ftruncate(memory, 128 << 20) != 0) {
      return ErrnoStatus("writing a fake machine");
    }
    return absl::OkStatus();
  }
  absl::StatusOr<WorkingSet> GetWorkingSet() override {
    if (world_->on_working_set) world_->on_working_set();
    const auto page = static_cast<uint32_t>(++world_->working_sets);
    return WorkingSet{{0, 1, true}, {page, 1, false}};
  }
  absl::StatusOr<MachineStatistics> Statistics() override { return MachineStatistics(); }
  MachineOrigin origin() const override {
    return {.waited = world_->vmms_wait,
            .ready = absl::Microseconds(3),
            .vmm_version = world_->vmm_version.load()};
  }
  absl::StatusOr<absl::Duration> CpuTime() override {
    absl::MutexLock lock(&mutex_);
    if (world_->ends_untold && !exit_.has_value()) {
      if (wake_) Wake();
      return absl::UnavailableError("the fake machine has just ended");
    }
    return absl::Milliseconds(++cpu_);
  }

  void Kill() override {
    absl::MutexLock lock(&mutex_);
    if (wake_) Wake();
  }
  absl::Status Stop(absl::Time deadline) override {
    {
      absl::MutexLock lock(&mutex_);
      if (!wake_) {  // Never started.
        if (!std::exchange(counted_out_, true)) --world_->alive;
        return absl::OkStatus();
      }
      while (!exit_.has_value() && !changed_.WaitWithDeadline(&mutex_, deadline)) {
      }
    }
    Kill();
    absl::MutexLock lock(&mutex_);
    while (!exit_.has_value()) changed_.Wait(&mutex_);
    return absl::OkStatus();
  }
  void OnExit(std::function<void(const MachineExit&)> callback) override {
    {
      absl::MutexLock lock(&mutex_);
      if (!exit_.has_value()) {
        on_exit_ = std::move(callback);
        return;
      }
    }
    callback(*exit_);
  }

 private:
  // Ends the agent's thread, and so the machine.
  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake_.get(), &one, sizeof(one));
  }
  void End(MachineExit::Reason reason, std::string detail) {
    std::function<void(const MachineExit&)> callback;
    MachineExit exit{reason, std::move(detail)};
    {
      absl::MutexLock lock(&mutex_);
      if (!std::exchange(counted_out_, true)) --world_->alive;
      exit_ = exit;
      callback = std::move(on_exit_);
      changed_.SignalAll();
    }
    if (callback) callback(exit);
  }

  const FakeScript& script_;
  const std::shared_ptr<FakeWorld> world_;
  const std::string id_;
  std::atomic<int> cpu_{0};
  std::thread thread_;
  absl::Mutex mutex_;
  SteadyCondVar changed_;
  UniqueFd host_end_;
  UniqueFd wake_;
  bool counted_out_ = false;
  std::optional<MachineExit> exit_;
  std::function<void(const MachineExit&)> on_exit_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> FakeBackend::Create(MachineSpec spec) {
  if (world_->on_create) world_->on_create(spec);
  if (world_->create_fails) return absl::UnavailableError("the fake host has no machines");
  ++world_->created;
  ++world_->booted;
  return std::unique_ptr<Machine>(new FakeMachine(script_, world_, spec.id));
}

absl::StatusOr<std::unique_ptr<Machine>> FakeBackend::Restore(RestoreSpec spec) {
  if (world_->on_restore) world_->on_restore(spec);
  int failing = world_->failing_restores;
  while (failing > 0 && !world_->failing_restores.compare_exchange_weak(failing, failing - 1)) {
  }
  if (failing > 0) {
    return absl::Status(world_->restore_error, "the fake machine cannot be restored");
  }
  ++world_->created;
  ++world_->restored;
  auto machine = std::make_unique<FakeMachine>(script_, world_, spec.id);
  RETURN_IF_ERROR(machine->Start());
  return machine;
}

FakeAgent::FakeAgent(const FakeScript& script, std::string boot_id, UniqueFd stream, UniqueFd wake)
    : script_(script),
      stream_(std::move(stream)),
      wake_(std::move(wake)),
      mux_({.side = wire::MuxSide::kAgent,
            .versions = script.versions,
            .build = "fake",
            .boot_id = std::move(boot_id)},
           this) {}

void FakeAgent::SendRaw(const std::string& bytes) {
  (void)!send(stream_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

void FakeAgent::HangUp() {
  shutdown(stream_.get(), SHUT_RDWR);
  hung_up_ = true;
}

void FakeAgent::Run() {
  std::array<char, 64 * 1024> buffer;
  const bool silent = !script_.instead_of_hello.empty();
  if (silent) SendRaw(script_.instead_of_hello);
  while (!closing_) {
    if (answered_ && mux_.output().empty()) {
      answered_ = false;
      if (script_.on_idle) script_.on_idle(*this);
    }
    const bool writes = !silent && !mux_.output().empty();
    pollfd polled[2] = {{wake_.get(), POLLIN, 0},
                        {hung_up_ ? -1 : stream_.get(),
                         static_cast<short>((reading_ ? POLLIN : 0) | (writes ? POLLOUT : 0)), 0}};
    if (poll(polled, 2, -1) < 0) continue;
    if (polled[0].revents != 0) return;
    if ((polled[1].revents & POLLOUT) != 0) {
      const ssize_t sent = send(stream_.get(), mux_.output().data(), mux_.output().size(),
                                MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) mux_.ConsumeOutput(static_cast<size_t>(sent));
      if (sent < 0 && errno != EAGAIN) return;
    }
    if ((polled[1].revents & ~POLLOUT) != 0) {
      const ssize_t got = recv(stream_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return;
      if (got > 0 && !silent && !mux_.Receive({buffer.data(), static_cast<size_t>(got)}).ok()) {
        // What the host said is wrong for this agent; Hello has told it why.
        while (!mux_.output().empty()) {
          const ssize_t sent =
              send(stream_.get(), mux_.output().data(), mux_.output().size(), MSG_NOSIGNAL);
          if (sent <= 0) break;
          mux_.ConsumeOutput(static_cast<size_t>(sent));
        }
        return;
      }
    }
  }
}

void FakeAgent::OnReady(const agent::v1::Hello& peer, uint32_t version) {
  (void)peer;
  (void)version;
}

void FakeAgent::Reply(uint64_t id) {
  agent::v1::Reply reply;
  reply.set_id(id);
  mux_.SendReply(reply).IgnoreError();
}

void FakeAgent::OnCall(agent::v1::Call call) {
  agent::v1::Reply reply;
  reply.set_id(call.id());
  switch (call.command_case()) {
    case agent::v1::Call::kConfigureInstance:
      if (script_.on_configure) script_.on_configure(call.configure_instance());
      if (script_.answers_configure) Reply(call.id());
      break;
    case agent::v1::Call::kStartRuntime:
      if (script_.on_start) script_.on_start(call.start_runtime());
      if (!script_.answers_init) break;
      *reply.mutable_runtime_started() = script_.started;
      mux_.SendReply(reply).IgnoreError();
      break;
    case agent::v1::Call::kPrepareSnapshot:
      if (!script_.answers_prepare) break;
      *reply.mutable_snapshot_prepared() = script_.prepared;
      mux_.SendReply(reply).IgnoreError();
      break;
    case agent::v1::Call::kRestoreInstance:
      if (script_.on_restore) script_.on_restore(call.restore_instance());
      if (!script_.answers_restore) break;
      *reply.mutable_instance_restored() = script_.restored;
      if (script_.restored.boot_id().empty()) {
        reply.mutable_instance_restored()->set_boot_id(
            absl::StrCat("restored-", call.restore_instance().instance_id()));
      }
      mux_.SendReply(reply).IgnoreError();
      break;
    case agent::v1::Call::kInvoke:
      current_ = Invocation();
      current_.call_id = call.id();
      current_.invoke = call.invoke();
      reading_ = !script_.stops_reading_at_invoke;
      if (script_.on_invoke) script_.on_invoke(*this, call.invoke());
      break;
    case agent::v1::Call::kCancelInvocation:
      if (!script_.answers_cancel) break;
      if (current_.call_id != 0) {
        agent::v1::Reply cancelled;
        cancelled.set_id(current_.call_id);
        cancelled.mutable_invocation_result()->set_outcome(agent::v1::OUTCOME_FUNCTION_ERROR);
        cancelled.mutable_invocation_result()->set_user_code_started(script_.cancelled_had_started);
        mux_.SendReply(cancelled).IgnoreError();
        current_.call_id = 0;
      }
      Reply(call.id());
      break;
    case agent::v1::Call::kShutdown:
      closing_ = true;
      break;
    default:
      break;
  }
}

void FakeAgent::OnStreamData(uint32_t stream_id, absl::string_view data) {
  if (stream_id != current_.invoke.request_stream()) return;
  current_.payload.append(data.data(), data.size());
  mux_.Consume(stream_id, data.size());
}

void FakeAgent::OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) {
  (void)reason;
  if (aborted || stream_id != current_.invoke.request_stream()) return;
  if (script_.invoke) {
    current_.answer = script_.invoke(current_.invoke, current_.payload);
  } else {
    current_.answer.response = current_.payload;
    current_.answer.result.set_outcome(agent::v1::OUTCOME_SUCCEEDED);
    current_.answer.result.set_reusable(true);
    current_.answer.result.set_user_code_started(true);
  }
  if (current_.answer.never) return;
  current_.response = current_.answer.response;
  current_.answering = true;
  Answer();
}

void FakeAgent::OnStreamWritable(uint32_t stream_id) {
  if (stream_id == current_.invoke.response_stream()) Answer();
}

void FakeAgent::Answer() {
  if (!current_.answering) return;
  const uint32_t stream = current_.invoke.response_stream();
  while (!current_.response.empty()) {
    const absl::StatusOr<size_t> sent = mux_.SendData(stream, current_.response);
    if (!sent.ok()) return;
    if (*sent == 0) return;
    current_.response.erase(0, *sent);
    if (current_.answer.close_after_half &&
        current_.response.size() * 2 <= current_.answer.response.size()) {
      closing_ = true;
      return;
    }
  }
  current_.answering = false;
  if (current_.answer.end_response) mux_.EndStream(stream).IgnoreError();
  agent::v1::Reply reply;
  reply.set_id(current_.call_id);
  *reply.mutable_invocation_result() = current_.answer.result;
  current_.call_id = 0;
  mux_.SendReply(reply).IgnoreError();
  answered_ = true;
  if (script_.exits_when_idle) {
    agent::v1::Event event;
    event.mutable_runtime_exited();
    SendEvent(std::move(event));
  }
}

}  // namespace hearth::control
