// SPDX-License-Identifier: Apache-2.0
// Between a process's pipes and the connection: log lines, and streams with back-pressure both
// ways. Nothing here holds more than one window or one line of data.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/event_loop.h"
#include "agent/log_buffer.h"
#include "vmm/base/unique_fd.h"
#include "wire/mux.h"

namespace hearth::agent {

// What the multiplexer delivers for one stream.
class StreamHandler {
 public:
  virtual ~StreamHandler() = default;
  virtual void OnData(absl::string_view data) { (void)data; }
  virtual void OnEnd(bool aborted, absl::string_view reason) = 0;
  virtual void OnWritable() {}
};

// Who handles which stream; data for no one aborts its stream.
using StreamHandlers = std::map<uint32_t, StreamHandler*>;

// A pipe: ours does not block, theirs does, as programs expect.
struct PipeEnds {
  UniqueFd read;
  UniqueFd write;
};
absl::StatusOr<PipeEnds> MakePipe(bool ours_is_read);

// What a program prints, as log lines.
class LogPump {
 public:
  LogPump(EventLoop* loop, LogBuffer* buffer, LogBuffer::Source source, std::string request_id,
          UniqueFd pipe);
  ~LogPump();

  // Goes on the lines from now on. What lies in the pipe still gets the old one.
  void set_request_id(const std::string& request_id);

  // Takes what lies in the pipe, without waiting and at most kMaxDrainBytes.
  void Drain();

  // As Drain(), and a line that has no newline yet ends here: nothing of it stays.
  void Flush();

 private:
  static constexpr size_t kMaxDrainBytes = 128 * 1024;
  bool ReadOnce(size_t* count);  // False when there is nothing (more).
  void Close();

  EventLoop* const loop_;
  LogBuffer* const buffer_;
  const LogBuffer::Source source_;
  std::string request_id_;
  UniqueFd pipe_;
  LineSplitter splitter_;
};

// From a program's pipe to a stream that is sent. At the pipe's end it calls `done` and leaves the
// stream open: who owns the invocation ends or aborts it.
class OutputPump : public StreamHandler {
 public:
  enum class End { kWhole, kTooLong, kAborted };

  // `max_bytes` 0: no limit.
  OutputPump(EventLoop* loop, wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
             uint64_t max_bytes, UniqueFd pipe, std::function<void(End)> done);
  ~OutputPump() override;

  void OnEnd(bool aborted, absl::string_view reason) override;
  void OnWritable() override;

 private:
  void Pump();
  void SetReading(bool reading);
  void Finish(End end);

  EventLoop* const loop_;
  wire::Mux* const mux_;
  StreamHandlers* const handlers_;
  const uint32_t stream_id_;
  const uint64_t max_bytes_;
  UniqueFd pipe_;
  std::function<void(End)> done_;
  bool reading_ = false;
  uint64_t sent_bytes_ = 0;
  std::string pending_;  // Read, but the connection had no room for it.
};

// From a received stream to a program's pipe, which is closed at the stream's end. A program that
// closes its end has the stream aborted.
class InputPump : public StreamHandler {
 public:
  // `aborted` is called when the stream was not whole.
  InputPump(EventLoop* loop, wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
            UniqueFd pipe, std::function<void()> aborted);
  ~InputPump() override;

  void OnData(absl::string_view data) override;
  void OnEnd(bool aborted, absl::string_view reason) override;

 private:
  void Pump();
  void CloseEarly();
  void Close();

  EventLoop* const loop_;
  wire::Mux* const mux_;
  StreamHandlers* const handlers_;
  const uint32_t stream_id_;
  UniqueFd pipe_;
  std::function<void()> aborted_;
  std::string pending_;
  bool ended_ = false;
};

// From memory to a stream that is sent.
class ResponseSender : public StreamHandler {
 public:
  // Above this much unsent data the producer should pause.
  static constexpr size_t kPauseBytes = 256 * 1024;

  // `progress` is called when data was sent later than in Write(), or the host aborted the stream.
  ResponseSender(wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
                 std::function<void()> progress);
  ~ResponseSender() override;

  void Write(absl::string_view data);
  void End();                            // When all is sent, ends the stream.
  void Abort(absl::string_view reason);  // At once; what is not sent is forgotten.

  bool full() const { return pending_.size() - sent_ >= kPauseBytes; }
  bool done() const { return done_; }  // Ended or aborted, by whichever side.

  void OnEnd(bool aborted, absl::string_view reason) override;
  void OnWritable() override;

 private:
  void Pump();

  wire::Mux* const mux_;
  StreamHandlers* const handlers_;
  const uint32_t stream_id_;
  std::function<void()> progress_;
  std::string pending_;
  size_t sent_ = 0;
  bool ending_ = false;
  bool done_ = false;
};

}  // namespace hearth::agent
