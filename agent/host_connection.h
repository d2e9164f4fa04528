// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/event_loop.h"
#include "vmm/base/unique_fd.h"
#include "wire/mux.h"

namespace hearth::agent {

// Dials in a row of which none led to the host's Hello: then the connection has ended. The first is
// made at once, the second after kRedialDelayNs, each further one after twice the time.
inline constexpr int kMaxRedials = 8;
inline constexpr int64_t kRedialDelayNs = 10'000'000;

struct HostConnectionOptions {
  UniqueFd socket;  // A stream in both directions.
  // Connects anew, with a socket that blocks.
  std::function<absl::StatusOr<UniqueFd>()> dial;
  // Tells the operator a line.
  std::function<void(absl::string_view)> say;
};

// What HostConnection asks and tells its owner.
class HostConnectionOwner : public wire::MuxDelegate {
 public:
  virtual std::string BootId() const = 0;
  // Whether a connection that breaks now is to be made anew, because the machine is one that was
  // restored; else it is the end.
  virtual bool ExpectsBreak() const = 0;
  virtual void OnNewMux(wire::Mux* mux) = 0;  // The former one is gone.
  virtual void OnWritten() = 0;               // There is room in the output.
};

// The connection to the host: its socket and its multiplexer, which change together. Over a serial
// port, which a restore does not break, the multiplexer alone changes when another host says Hello.
class HostConnection {
 public:
  // `loop` and `owner` outlive this.
  static absl::StatusOr<std::unique_ptr<HostConnection>> Create(EventLoop* loop,
                                                                HostConnectionOptions options,
                                                                HostConnectionOwner* owner);
  ~HostConnection();

  wire::Mux* mux() { return mux_.get(); }
  // Why it has ended; OK while it has not.
  const absl::Status& status() const { return status_; }

  // Writes what there is, as far as the socket takes it. To be called before each wait.
  void Flush();
  // The host's Hello was good.
  void Established() { redials_ = 0; }

 private:
  HostConnection(EventLoop* loop, HostConnectionOptions options, HostConnectionOwner* owner)
      : loop_(loop),
        dial_(std::move(options.dial)),
        say_(std::move(options.say)),
        owner_(owner),
        socket_(std::move(options.socket)) {}
  std::unique_ptr<wire::Mux> NewMux();
  absl::Status Watch();
  void OnEvents(uint32_t events);
  void Broken(const absl::Status& why);
  void Dial();
  void DialLater();
  absl::Status DialOnce();

  EventLoop* const loop_;
  const std::function<absl::StatusOr<UniqueFd>()> dial_;
  const std::function<void(absl::string_view)> say_;
  HostConnectionOwner* const owner_;
  UniqueFd socket_;  // Invalid between two dials.
  std::unique_ptr<wire::Mux> mux_;
  int redials_ = 0;
  EventLoop::TimerId retry_ = 0;
  absl::Status status_;
};

}  // namespace hearth::agent
