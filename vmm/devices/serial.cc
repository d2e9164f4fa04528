// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/serial.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace hearth::vmm {
namespace {

// Registers of the 16550 (National Semiconductor PC16550D, table II).
constexpr uint64_t kData = 0;             // Divisor low with kLineDivisorLatch.
constexpr uint64_t kInterruptEnable = 1;  // Divisor high with kLineDivisorLatch.
constexpr uint64_t kInterruptId = 2;      // Read; written it is FIFO control.
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

constexpr uint8_t kEnableReceived = 0x01;
constexpr uint8_t kEnableThrEmpty = 0x02;
constexpr uint8_t kEnableLineStatus = 0x04;
constexpr uint8_t kEnableMask = 0x0f;

constexpr uint8_t kIdNone = 0x01;
constexpr uint8_t kIdThrEmpty = 0x02;
constexpr uint8_t kIdReceived = 0x04;
constexpr uint8_t kIdLineStatus = 0x06;
constexpr uint8_t kIdFifosEnabled = 0xc0;

constexpr uint8_t kFifoEnable = 0x01;
constexpr uint8_t kFifoClearReceiver = 0x02;
constexpr uint8_t kLineDivisorLatch = 0x80;

constexpr uint8_t kModemMask = 0x1f;
constexpr uint8_t kModemDtr = 0x01;
constexpr uint8_t kModemRts = 0x02;
constexpr uint8_t kModemOut1 = 0x04;
constexpr uint8_t kModemOut2 = 0x08;
constexpr uint8_t kModemLoop = 0x10;

constexpr uint8_t kStatusDataReady = 0x01;
constexpr uint8_t kStatusOverrun = 0x02;
constexpr uint8_t kStatusTransmitterEmpty = 0x60;

constexpr uint8_t kModemCts = 0x10;
constexpr uint8_t kModemDsr = 0x20;
constexpr uint8_t kModemRing = 0x40;
constexpr uint8_t kModemCarrier = 0x80;

}  // namespace

absl::StatusOr<std::unique_ptr<Serial>> Serial::Create(Options options) {
  if (options.output) {
    const int flags = fcntl(options.output.get(), F_GETFL);
    if (flags < 0 || fcntl(options.output.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
      return ErrnoStatus("serial: make the output non-blocking");
    }
  }
  EventLoop* loop = options.loop;
  std::unique_ptr<Serial> serial(new Serial(std::move(options)));
  if (serial->output_) {
    Serial* self = serial.get();
    ASSIGN_OR_RETURN(serial->flush_timer_, Timer::Create(loop, [self] {
                       MutexLock lock(self->device_lock_);
                       self->flush_armed_ = false;
                       self->Flush();
                     }));
  }
  return serial;
}

Serial::Serial(Options options)
    : output_(std::move(options.output)),
      interrupt_(std::move(options.interrupt)),
      device_lock_(options.device_lock),
      rate_(kSerialBurstBytes, options.bytes_per_second == 0 ? kSerialDefaultBytesPerSecond
                                                             : options.bytes_per_second) {}

void Serial::Read(uint64_t offset, std::span<uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) data[i] = ReadRegister(offset + i);
}

void Serial::Write(uint64_t offset, std::span<const uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) WriteRegister(offset + i, data[i]);
}

uint8_t Serial::ReadRegister(uint64_t offset) {
  const bool divisor = (state_.line_control & kLineDivisorLatch) != 0;
  switch (offset) {
    case kData:
      return divisor ? state_.divisor_low : ReadData();
    case kInterruptEnable:
      return divisor ? state_.divisor_high : state_.interrupt_enable;
    case kInterruptId:
      return ReadInterruptId();
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus:
      return LineStatus();
    case kModemStatus:
      return ModemStatus();
    case kScratch:
      return state_.scratch;
    default:
      return 0;
  }
}

void Serial::WriteRegister(uint64_t offset, uint8_t value) {
  const bool divisor = (state_.line_control & kLineDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        state_.divisor_low = value;
      } else {
        Transmit(value);
      }
      return;
    case kInterruptEnable:
      if (divisor) {
        state_.divisor_high = value;
      } else {
        WriteInterruptEnable(value & kEnableMask);
      }
      return;
    case kInterruptId:
      state_.fifo_control = value;
      if (value & kFifoClearReceiver) state_.input_count = 0;
      return;
    case kLineControl:
      state_.line_control = value;
      return;
    case kModemControl:
      state_.modem_control = value & kModemMask;
      return;
    case kScratch:
      state_.scratch = value;
      return;
    default:
      return;  // The status registers are read-only.
  }
}

void Serial::WriteInterruptEnable(uint8_t value) {
  const uint8_t added = value & static_cast<uint8_t>(~state_.interrupt_enable);
  state_.interrupt_enable = value;
  // Enabling it while the transmitter is empty raises it; Linux tests for that.
  if (added & kEnableThrEmpty) state_.thr_empty_pending = true;
  if (added != 0) Interrupt();
}

uint8_t Serial::ReadData() {
  if (state_.input_count == 0) return 0;
  const uint8_t byte = state_.input[state_.input_head];
  state_.input_head = static_cast<uint8_t>((state_.input_head + 1) % kSerialInputFifoBytes);
  --state_.input_count;
  return byte;
}

uint8_t Serial::PendingInterrupt() const {
  const uint8_t enabled = state_.interrupt_enable;
  if ((enabled & kEnableLineStatus) && state_.overrun) return kIdLineStatus;
  if ((enabled & kEnableReceived) && state_.input_count != 0) return kIdReceived;
  if ((enabled & kEnableThrEmpty) && state_.thr_empty_pending) return kIdThrEmpty;
  return kIdNone;
}

uint8_t Serial::ReadInterruptId() {
  const uint8_t id = PendingInterrupt();
  if (id == kIdThrEmpty) state_.thr_empty_pending = false;  // Reading acknowledges it.
  return (state_.fifo_control & kFifoEnable) ? id | kIdFifosEnabled : id;
}

uint8_t Serial::LineStatus() {
  uint8_t status = kStatusTransmitterEmpty;
  if (state_.input_count != 0) status |= kStatusDataReady;
  if (state_.overrun) status |= kStatusOverrun;
  state_.overrun = false;  // Reading clears it.
  return status;
}

uint8_t Serial::ModemStatus() const {
  const uint8_t control = state_.modem_control;
  if (!(control & kModemLoop)) return kModemCts | kModemDsr | kModemCarrier;
  uint8_t status = 0;
  if (control & kModemRts) status |= kModemCts;
  if (control & kModemDtr) status |= kModemDsr;
  if (control & kModemOut1) status |= kModemRing;
  if (control & kModemOut2) status |= kModemCarrier;
  return status;
}

void Serial::Interrupt() {
  if (PendingInterrupt() != kIdNone && interrupt_) interrupt_();
}

void Serial::Transmit(uint8_t byte) {
  if (state_.modem_control & kModemLoop) {
    Receive({&byte, 1});
  } else {
    Output(byte);
  }
  // The byte has left at once, so the transmitter is empty again.
  state_.thr_empty_pending = true;
  if (state_.interrupt_enable & kEnableThrEmpty) Interrupt();
}

size_t Serial::Receive(std::span<const uint8_t> data) {
  const size_t room = kSerialInputFifoBytes - state_.input_count;
  const size_t taken = std::min(room, data.size());
  for (size_t i = 0; i < taken; ++i) {
    state_.input[(state_.input_head + state_.input_count) % kSerialInputFifoBytes] = data[i];
    ++state_.input_count;
  }
  if (taken < data.size()) state_.overrun = true;
  if (!data.empty()) Interrupt();
  return taken;
}

absl::Status Serial::Restore(const SerialState& saved) {
  if ((saved.interrupt_enable & ~kEnableMask) != 0 || (saved.modem_control & ~kModemMask) != 0 ||
      saved.input_head >= kSerialInputFifoBytes || saved.input_count > kSerialInputFifoBytes) {
    return absl::InvalidArgumentError("saved serial port: a state that no guest gets to");
  }
  state_ = saved;
  Interrupt();
  return absl::OkStatus();
}

void Serial::Output(uint8_t byte) {
  if (!output_) return;
  const uint64_t now_ns = MonotonicNs();
  if (!rate_.Take(1, now_ns)) {
    ++dropped_bytes_;
    return;
  }
  if (buffered_ == buffer_.size()) {
    ++dropped_bytes_;  // Flush() below was tried when it filled; the timer tries again.
    return;
  }
  buffer_[buffered_++] = byte;
  const bool paused = now_ns - last_flush_ns_ >= kSerialFlushDelayNs;
  const bool blocked = retry_delay_ns_ != kSerialFlushDelayNs;
  if (!blocked && (byte == '\n' || paused || buffered_ == buffer_.size())) {
    Flush();
  } else {
    ArmFlush(kSerialFlushDelayNs);
  }
}

void Serial::ArmFlush(uint64_t delay_ns) {
  if (flush_armed_) return;
  flush_armed_ = true;
  flush_timer_->Arm(delay_ns);
}

void Serial::Flush() {
  if (!output_ || buffered_ == 0) return;
  last_flush_ns_ = MonotonicNs();
  size_t done = 0;
  while (done < buffered_) {
    const ssize_t written = write(output_.get(), buffer_.data() + done, buffered_ - done);
    if (written > 0) {
      done += static_cast<size_t>(written);
      retry_delay_ns_ = kSerialFlushDelayNs;
      continue;
    }
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) break;
    dropped_bytes_ += buffered_ - done;  // Nobody reads any more.
    done = buffered_;
    output_.reset();
  }
  std::memmove(buffer_.data(), buffer_.data() + done, buffered_ - done);
  buffered_ -= done;
  if (buffered_ == 0) return;
  retry_delay_ns_ = std::min(retry_delay_ns_ * 2, kSerialMaxRetryDelayNs);
  ArmFlush(retry_delay_ns_);
}

}  // namespace hearth::vmm
