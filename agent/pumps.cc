// SPDX-License-Identifier: Apache-2.0
#include "agent/pumps.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr size_t kPipeReadBytes = 32 * 1024;

}  // namespace

absl::StatusOr<PipeEnds> MakePipe(bool ours_is_read) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  PipeEnds ends{UniqueFd(fds[0]), UniqueFd(fds[1])};
  const int ours = ours_is_read ? ends.read.get() : ends.write.get();
  if (fcntl(ours, F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl");
  return ends;
}

LogPump::LogPump(EventLoop* loop, LogBuffer* buffer, LogBuffer::Source source,
                 std::string request_id, UniqueFd pipe)
    : loop_(loop),
      buffer_(buffer),
      source_(source),
      request_id_(std::move(request_id)),
      pipe_(std::move(pipe)) {
  const absl::Status status = loop_->Add(pipe_.get(), EPOLLIN, [this](uint32_t) {
    size_t count = 0;
    ReadOnce(&count);
  });
  if (!status.ok()) pipe_.reset();
}

LogPump::~LogPump() {
  Drain();
  Close();
}

void LogPump::set_request_id(const std::string& request_id) {
  Drain();
  request_id_ = request_id;
}

void LogPump::Drain() {
  size_t total = 0;
  while (total < kMaxDrainBytes && ReadOnce(&total)) {
  }
}

void LogPump::Flush() {
  Drain();
  splitter_.Finish([this](absl::string_view text, bool cut) {
    buffer_->Append(source_, request_id_, text, cut);
  });
}

bool LogPump::ReadOnce(size_t* count) {
  if (!pipe_) return false;
  std::array<char, kPipeReadBytes> buffer;
  const ssize_t got = read(pipe_.get(), buffer.data(), buffer.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return errno == EINTR;
  if (got <= 0) {
    Close();
    return false;
  }
  *count += static_cast<size_t>(got);
  splitter_.Feed({buffer.data(), static_cast<size_t>(got)},
                 [this](absl::string_view text, bool cut) {
                   buffer_->Append(source_, request_id_, text, cut);
                 });
  return true;
}

void LogPump::Close() {
  if (!pipe_) return;
  loop_->Remove(pipe_.get());
  pipe_.reset();
  splitter_.Finish([this](absl::string_view text, bool cut) {
    buffer_->Append(source_, request_id_, text, cut);
  });
}

OutputPump::OutputPump(EventLoop* loop, wire::Mux* mux, StreamHandlers* handlers,
                       uint32_t stream_id, uint64_t max_bytes, UniqueFd pipe,
                       std::function<void(End)> done)
    : loop_(loop),
      mux_(mux),
      handlers_(handlers),
      stream_id_(stream_id),
      max_bytes_(max_bytes),
      pipe_(std::move(pipe)),
      done_(std::move(done)) {
  (*handlers_)[stream_id_] = this;
  SetReading(true);
}

OutputPump::~OutputPump() {
  SetReading(false);
  handlers_->erase(stream_id_);
}

void OutputPump::Pump() {
  if (!pipe_) return;
  if (pending_.empty()) {
    std::array<char, kPipeReadBytes> buffer;
    const ssize_t got = read(pipe_.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return Finish(End::kWhole);
    pending_.assign(buffer.data(), static_cast<size_t>(got));
    if (max_bytes_ != 0 && sent_bytes_ + pending_.size() > max_bytes_) {
      return Finish(End::kTooLong);
    }
  }
  absl::StatusOr<size_t> sent = mux_->SendData(stream_id_, pending_);
  if (!sent.ok()) return Finish(End::kAborted);
  sent_bytes_ += *sent;
  pending_.erase(0, *sent);
  // A full pipe stops the program, until OnWritable.
  SetReading(pending_.empty());
}

void OutputPump::SetReading(bool reading) {
  if (reading == reading_) return;
  reading_ = reading;
  // Taken out, for EPOLLHUP comes whatever is asked for.
  if (!reading) return loop_->Remove(pipe_.get());
  const absl::Status status = loop_->Add(pipe_.get(), EPOLLIN, [this](uint32_t) { Pump(); });
  if (!status.ok()) pipe_.reset();
}

void OutputPump::OnWritable() { Pump(); }

void OutputPump::OnEnd(bool, absl::string_view) { Finish(End::kAborted); }

void OutputPump::Finish(End end) {
  if (!pipe_) return;
  SetReading(false);
  pipe_.reset();
  // May destroy this pump.
  const std::function<void(End)> done = std::move(done_);
  if (done) done(end);
}

InputPump::InputPump(EventLoop* loop, wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
                     UniqueFd pipe, std::function<void()> aborted)
    : loop_(loop),
      mux_(mux),
      handlers_(handlers),
      stream_id_(stream_id),
      pipe_(std::move(pipe)),
      aborted_(std::move(aborted)) {
  (*handlers_)[stream_id_] = this;
  const absl::Status status = loop_->Add(pipe_.get(), 0, [this](uint32_t events) {
    // EPOLLERR on a pipe's write end: its reader is gone (poll(2)), and stays reported.
    if ((events & EPOLLERR) != 0) return CloseEarly();
    Pump();
  });
  if (!status.ok()) pipe_.reset();
}

InputPump::~InputPump() {
  Close();
  handlers_->erase(stream_id_);
  mux_->AbortStream(stream_id_, "the program has ended");
}

void InputPump::OnData(absl::string_view data) {
  if (!pipe_) return;
  pending_.append(data.data(), data.size());
  Pump();
}

void InputPump::OnEnd(bool aborted, absl::string_view) {
  ended_ = true;
  if (aborted) {
    Close();
    if (aborted_) aborted_();
    return;
  }
  Pump();
}

void InputPump::Pump() {
  if (!pipe_) return;
  while (!pending_.empty()) {
    const ssize_t written = write(pipe_.get(), pending_.data(), pending_.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) break;
    if (written < 0) return CloseEarly();
    pending_.erase(0, static_cast<size_t>(written));
    mux_->Consume(stream_id_, static_cast<size_t>(written));
  }
  if (pending_.empty() && ended_) return Close();
  loop_->Modify(pipe_.get(), pending_.empty() ? 0U : uint32_t{EPOLLOUT});
}

void InputPump::CloseEarly() {
  Close();
  mux_->AbortStream(stream_id_, "the program closed its input");
}

void InputPump::Close() {
  if (!pipe_) return;
  loop_->Remove(pipe_.get());
  pipe_.reset();
  pending_.clear();
}

ResponseSender::ResponseSender(wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
                               std::function<void()> progress)
    : mux_(mux), handlers_(handlers), stream_id_(stream_id), progress_(std::move(progress)) {
  if (stream_id_ != 0) (*handlers_)[stream_id_] = this;
}

ResponseSender::~ResponseSender() {
  if (stream_id_ != 0) handlers_->erase(stream_id_);
}

void ResponseSender::Write(absl::string_view data) {
  if (done_ || ending_) return;
  pending_.append(data.data(), data.size());
  Pump();
}

void ResponseSender::End() {
  ending_ = true;
  Pump();
}

void ResponseSender::Abort(absl::string_view reason) {
  if (done_) return;
  done_ = true;
  pending_.clear();
  sent_ = 0;
  mux_->AbortStream(stream_id_, reason);
}

void ResponseSender::OnEnd(bool, absl::string_view) {
  done_ = true;
  pending_.clear();
  sent_ = 0;
  const std::function<void()> progress = progress_;
  if (progress) progress();
}

void ResponseSender::OnWritable() {
  Pump();
  const std::function<void()> progress = progress_;
  if (progress) progress();
}

void ResponseSender::Pump() {
  if (done_) return;
  if (stream_id_ == 0) {
    // A host that named no stream does not want the response.
    pending_.clear();
    done_ = ending_;
    return;
  }
  const absl::StatusOr<size_t> sent =
      mux_->SendData(stream_id_, absl::string_view(pending_).substr(sent_));
  if (!sent.ok()) {
    done_ = true;
    return;
  }
  sent_ += *sent;
  if (sent_ == pending_.size()) {
    pending_.clear();
    sent_ = 0;
    if (ending_) {
      done_ = true;
      mux_->EndStream(stream_id_).IgnoreError();
    }
  } else if (sent_ >= kPauseBytes) {
    pending_.erase(0, sent_);
    sent_ = 0;
  }
}

}  // namespace hearth::agent
