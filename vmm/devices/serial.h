// SPDX-License-Identifier: Apache-2.0
// A 16550A UART, enough for Linux's 8250 driver and its console.
//
// What the guest writes goes to a file descriptor without ever blocking: through a bounded buffer
// and a rate limit; what does not fit is dropped and counted.
//
// Thread: under the machine's device lock, Flush() too. The buffer is written out by whoever fills
// it, at a newline or when output had paused; a timer on the loop writes what is left.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "vmm/base/event_loop.h"
#include "vmm/base/mutex.h"
#include "vmm/base/token_bucket.h"
#include "vmm/base/unique_fd.h"
#include "vmm/bus/bus_device.h"

namespace hearth::vmm {

inline constexpr uint64_t kSerialPorts = 8;
inline constexpr size_t kSerialOutputBufferBytes = 4096;
inline constexpr size_t kSerialInputFifoBytes = 64;
inline constexpr uint64_t kSerialDefaultBytesPerSecond = 256 * 1024;
inline constexpr uint64_t kSerialBurstBytes = 256 * 1024;
// Output that does not end in a newline waits this long for more of its line.
inline constexpr uint64_t kSerialFlushDelayNs = 5'000'000;
// While the descriptor takes nothing, attempts become rarer, up to this.
inline constexpr uint64_t kSerialMaxRetryDelayNs = 10'000'000'000;

// The UART's registers; with the input FIFO a snapshot of it.
struct SerialState {
  uint8_t interrupt_enable = 0;
  uint8_t fifo_control = 0;
  uint8_t line_control = 3;  // 8N1.
  uint8_t modem_control = 0;
  uint8_t scratch = 0;
  uint8_t divisor_low = 12;  // 9600 baud; kept for the driver to read back.
  uint8_t divisor_high = 0;
  bool thr_empty_pending = false;  // The transmitter-empty interrupt has not been read yet.
  bool overrun = false;
  uint8_t input_head = 0;
  uint8_t input_count = 0;
  std::array<uint8_t, kSerialInputFifoBytes> input{};
};

class Serial : public BusDevice {
 public:
  struct Options {
    // Made non-blocking. None: what the guest writes is lost. The process ignores SIGPIPE.
    UniqueFd output;
    uint64_t bytes_per_second = 0;  // 0: kSerialDefaultBytesPerSecond.
    InterruptLine interrupt;
    // Both outlive the device, which is destroyed on the loop's thread without the lock.
    EventLoop* loop = nullptr;
    Mutex* device_lock = nullptr;
  };
  static absl::StatusOr<std::unique_ptr<Serial>> Create(Options options);

  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

  // Puts input into the FIFO; what does not fit is an overrun. Returns how much fitted.
  size_t Receive(std::span<const uint8_t> data);
  // Writes out what is buffered, as far as the descriptor takes it.
  void Flush();

  uint64_t dropped_bytes() const { return dropped_bytes_; }
  const SerialState& state() const { return state_; }
  // Takes over a state, right after Create(), and raises the interrupt that it has pending.
  // INVALID_ARGUMENT for one that no guest could have brought about. Output and its rate limit are
  // the host's and begin anew.
  absl::Status Restore(const SerialState& saved);

 private:
  explicit Serial(Options options);

  uint8_t ReadRegister(uint64_t offset);
  void WriteRegister(uint64_t offset, uint8_t value);
  void WriteInterruptEnable(uint8_t value);
  uint8_t ReadData();
  uint8_t ReadInterruptId();
  uint8_t LineStatus();
  uint8_t ModemStatus() const;
  void Transmit(uint8_t byte);
  void Output(uint8_t byte);
  void Interrupt();
  uint8_t PendingInterrupt() const;
  void ArmFlush(uint64_t delay_ns);

  UniqueFd output_;
  InterruptLine interrupt_;
  Mutex* device_lock_;
  std::unique_ptr<Timer> flush_timer_;
  TokenBucket rate_;
  SerialState state_;
  std::array<uint8_t, kSerialOutputBufferBytes> buffer_;
  size_t buffered_ = 0;
  bool flush_armed_ = false;
  uint64_t retry_delay_ns_ = kSerialFlushDelayNs;
  uint64_t last_flush_ns_ = 0;
  uint64_t dropped_bytes_ = 0;
};

}  // namespace hearth::vmm
