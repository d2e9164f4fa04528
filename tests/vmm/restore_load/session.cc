// SPDX-License-Identifier: Apache-2.0
#include "tests/vmm/restore_load/session.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "vmm/base/token_bucket.h"

namespace hearth::vmm::testing {
namespace {

constexpr size_t kInFlightBytes = 4 * kLoadChunkBytes;
constexpr uint64_t kTicks = 5;
constexpr uint64_t kWrites = 3;

// Bytes now in the socket, at most 64 KiB; an error at its end.
absl::StatusOr<std::string> ReadSome(int socket, absl::string_view what) {
  std::string data(65536, '\0');
  const ssize_t got = recv(socket, data.data(), data.size(), MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return std::string();
  if (got < 0) return ErrnoStatus(what);
  if (got == 0) return absl::UnavailableError(absl::StrCat(what, " ended"));
  data.resize(static_cast<size_t>(got));
  return data;
}

absl::StatusOr<size_t> WriteSome(int socket, absl::string_view data, absl::string_view what) {
  const ssize_t sent = send(socket, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && errno == EAGAIN) return 0;
  if (sent < 0) return ErrnoStatus(what);
  return static_cast<size_t>(sent);
}

}  // namespace

absl::Status LoadSession::Connect() {
  for (uint32_t i = 0; i < kLoadEchoStreams; ++i) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return ErrnoStatus("socketpair");
    }
    host_streams_.emplace_back().socket.reset(ends[0]);
    std::vector<UniqueFd> fds;
    fds.emplace_back(ends[1]);
    v1::Request request;
    request.mutable_connect_vsock()->set_port(kLoadGuestPort);
    RETURN_IF_ERROR(vmm_.Call(std::move(request), std::move(fds)).status());
  }
  return absl::OkStatus();
}

absl::Status LoadSession::TakeEvents() {
  while (true) {
    auto event = vmm_.NextEvent(0);
    if (absl::IsDeadlineExceeded(event.status())) return absl::OkStatus();
    RETURN_IF_ERROR(event.status());
    if (event->event.has_exited()) {
      exited_ = event->event.exited();
      if (finishing_) return absl::OkStatus();
      return absl::AbortedError(absl::StrCat("the guest ended: ", exited_->detail()));
    }
    if (!event->event.has_vsock_connection() || event->fds.size() != 1 || finishing_) continue;
    Stream stream;
    stream.socket = std::move(event->fds[0]);
    if (event->event.vsock_connection().port() == kLoadReportPort) {
      if (reports_.has_value()) return absl::AbortedError("a second connection for reports");
      reports_ = std::move(stream);
    } else {
      guest_streams_.push_back(std::move(stream));
    }
  }
}

absl::Status LoadSession::Echo(Stream& stream) {
  if (stream.backlog.empty()) {
    ASSIGN_OR_RETURN(stream.backlog, ReadSome(stream.socket.get(), "a stream of the guest"));
    stream.received += stream.backlog.size();
  }
  ASSIGN_OR_RETURN(const size_t sent,
                   WriteSome(stream.socket.get(), stream.backlog, "a stream of the guest"));
  stream.backlog.erase(0, sent);
  return absl::OkStatus();
}

absl::Status LoadSession::Talk(Stream& stream) {
  while (stream.sent - stream.received < kInFlightBytes) {
    std::string chunk(kLoadChunkBytes, '\0');
    for (size_t i = 0; i < chunk.size(); ++i) {
      chunk[i] = static_cast<char>(LoadByte(stream.sent + i));
    }
    ASSIGN_OR_RETURN(const size_t sent,
                     WriteSome(stream.socket.get(), chunk, "a stream of the host"));
    if (sent == 0) break;
    stream.sent += sent;
  }
  ASSIGN_OR_RETURN(const std::string back, ReadSome(stream.socket.get(), "a stream of the host"));
  for (const char byte : back) {
    if (static_cast<uint8_t>(byte) != LoadByte(stream.received++)) {
      return absl::DataLossError("the guest's echo differs from what was sent");
    }
  }
  return absl::OkStatus();
}

absl::Status LoadSession::ReadReports() {
  ASSIGN_OR_RETURN(const std::string data, ReadSome(reports_->socket.get(), "the reports"));
  reports_->backlog += data;
  while (reports_->backlog.size() >= sizeof(LoadReport)) {
    LoadReport report;
    std::memcpy(static_cast<void*>(&report), reports_->backlog.data(), sizeof(report));
    reports_->backlog.erase(0, sizeof(report));
    if (!first_.has_value()) first_ = report;
    last_ = report;
    if (report.failures != 0) {
      return absl::DataLossError(absl::StrCat("the guest counts ", report.failures, " failures"));
    }
  }
  return absl::OkStatus();
}

absl::Status LoadSession::Step(int timeout_ms) {
  std::vector<pollfd> entries = {{vmm_.socket().fd(), POLLIN, 0}};
  if (reports_.has_value()) entries.push_back({reports_->socket.get(), POLLIN, 0});
  for (const Stream& stream : guest_streams_) {
    const short wanted = stream.backlog.empty() ? POLLIN : POLLOUT;
    entries.push_back({stream.socket.get(), wanted, 0});
  }
  for (const Stream& stream : host_streams_) {
    const bool room = stream.sent - stream.received < kInFlightBytes;
    entries.push_back({stream.socket.get(), static_cast<short>(POLLIN | (room ? POLLOUT : 0)), 0});
  }
  if (poll(entries.data(), entries.size(), timeout_ms) < 0) return ErrnoStatus("poll");
  RETURN_IF_ERROR(TakeEvents());  // Some came with the responses to calls.
  if (reports_.has_value()) RETURN_IF_ERROR(ReadReports());
  for (Stream& stream : guest_streams_) RETURN_IF_ERROR(Echo(stream));
  for (Stream& stream : host_streams_) RETURN_IF_ERROR(Talk(stream));
  return absl::OkStatus();
}

bool LoadSession::HasProgressed() const {
  if (!first_.has_value() || guest_streams_.size() < kLoadEchoStreams) return false;
  for (size_t i = 0; i < kLoadCpus; ++i) {
    if (last_->cpu_rounds[i] == first_->cpu_rounds[i]) return false;
  }
  for (size_t i = 0; i < kLoadWriters; ++i) {
    if (last_->written[i] < first_->written[i] + kWrites) return false;
  }
  const auto has_echoed = [](const Stream& stream) {
    return stream.received >= 2 * kLoadChunkBytes;
  };
  return last_->timer_ticks >= first_->timer_ticks + kTicks &&
         last_->verified_blocks > first_->verified_blocks &&
         last_->echoed_bytes >= first_->echoed_bytes + 2 * kLoadChunkBytes &&
         std::all_of(guest_streams_.begin(), guest_streams_.end(), has_echoed) &&
         std::all_of(host_streams_.begin(), host_streams_.end(), has_echoed);
}

std::string LoadSession::Describe() const {
  std::string text = absl::StrCat(guest_streams_.size(), " streams of the guest");
  for (const Stream& stream : guest_streams_) absl::StrAppend(&text, " ", stream.received);
  absl::StrAppend(&text, "; of the host");
  for (const Stream& stream : host_streams_) absl::StrAppend(&text, " ", stream.received);
  for (const auto& report : {first_, last_}) {
    if (!report.has_value()) return absl::StrCat(text, "; no report");
    absl::StrAppend(&text, "; at ", report->monotonic_ns / 1'000'000, " ms: ticks ",
                    report->timer_ticks, ", vCPUs");
    for (const uint64_t rounds : report->cpu_rounds) absl::StrAppend(&text, " ", rounds);
    absl::StrAppend(&text, ", written");
    for (const uint64_t count : report->written) absl::StrAppend(&text, " ", count);
    absl::StrAppend(&text, ", verified ", report->verified_blocks, ", echoed ",
                    report->echoed_bytes, ", resets ", report->resets);
  }
  return text;
}

template <typename Condition>
absl::Status LoadSession::Await(Condition condition, int patience_ms) {
  const uint64_t end_ns = MonotonicNs() + static_cast<uint64_t>(patience_ms) * 1'000'000;
  while (!condition()) {
    const absl::Status status =
        MonotonicNs() < end_ns ? Step(1000) : absl::DeadlineExceededError("the guest hangs");
    if (!status.ok()) return Annotate(status, Describe());
  }
  return absl::OkStatus();
}

absl::Status LoadSession::AwaitGuest(int patience_ms) {
  return Await([this] { return first_.has_value(); }, patience_ms);
}

absl::Status LoadSession::AwaitProgress(int patience_ms) {
  return Await([this] { return HasProgressed(); }, patience_ms);
}

absl::Status LoadSession::Serve(int duration_ms) {
  const uint64_t end_ns = MonotonicNs() + static_cast<uint64_t>(duration_ms) * 1'000'000;
  while (MonotonicNs() < end_ns) RETURN_IF_ERROR(Step(1));
  return absl::OkStatus();
}

absl::Status LoadSession::Finish(int patience_ms) {
  if (send(reports_->socket.get(), "q", 1, MSG_NOSIGNAL) != 1) return ErrnoStatus("the reports");
  RETURN_IF_ERROR(Await([this] { return last_->finished != 0; }, patience_ms));
  finishing_ = true;
  reports_.reset();  // The guest waits for that.
  guest_streams_.clear();
  host_streams_.clear();
  RETURN_IF_ERROR(Await([this] { return exited_.has_value(); }, patience_ms));
  if (exited_->reason() == v1::Exited::REASON_GUEST_RESET) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("the guest ended otherwise: ", exited_->detail()));
}

}  // namespace hearth::vmm::testing
