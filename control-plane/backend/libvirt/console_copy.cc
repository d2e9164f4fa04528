// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/console_copy.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

constexpr int kDrainedBuffers = 64;  // More than a socket holds.

}  // namespace

ConsoleCopy::ConsoleCopy(EventLoop* loop, UniqueFd source, UniqueFd target,
                         uint32_t bytes_per_second)
    : loop_(loop),
      source_(std::move(source)),
      target_(std::move(target)),
      bucket_(kConsoleBurstBytes,
              bytes_per_second != 0 ? bytes_per_second : kConsoleDefaultBytesPerSecond) {}

absl::StatusOr<std::unique_ptr<ConsoleCopy>> ConsoleCopy::Start(EventLoop* loop, UniqueFd source,
                                                                UniqueFd target,
                                                                uint32_t bytes_per_second) {
  if (fcntl(target.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl(O_NONBLOCK)");
  std::unique_ptr<ConsoleCopy> copy(
      new ConsoleCopy(loop, std::move(source), std::move(target), bytes_per_second));
  RETURN_IF_ERROR(
      loop->Add(copy->source_.get(), EPOLLIN, [self = copy.get()](uint32_t) { self->CopySome(); }));
  return copy;
}

ConsoleCopy::~ConsoleCopy() {
  if (source_) loop_->Remove(source_.get());
}

bool ConsoleCopy::CopySome() {
  std::array<char, kConsoleBufferBytes> buffer;
  if (!source_) return false;
  const ssize_t got = recv(source_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got <= 0) {
    loop_->Remove(source_.get());
    source_.reset();
    return false;
  }
  const uint64_t received = static_cast<uint64_t>(got);
  const uint64_t allowed = bucket_.TakeUpTo(received, MonotonicNs());
  const ssize_t wrote = allowed > 0 ? write(target_.get(), buffer.data(), allowed) : 0;
  dropped_bytes_ += received - static_cast<uint64_t>(wrote > 0 ? wrote : 0);
  return true;
}

void ConsoleCopy::Drain() {
  for (int i = 0; i < kDrainedBuffers && CopySome(); ++i) {
  }
}

}  // namespace hearth::libvirt
