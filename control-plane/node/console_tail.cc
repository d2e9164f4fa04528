// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/console_tail.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>

#include "vmm/base/status.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

constexpr size_t kTailBytes = 2048;

}  // namespace

absl::StatusOr<std::shared_ptr<ConsoleTail>> ConsoleTail::Start(EventLoop* loop,
                                                                UniqueFd* write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoStatus("pipe2 for a console");
  write_end->reset(ends[1]);
  std::shared_ptr<ConsoleTail> tail(new ConsoleTail(loop, UniqueFd(ends[0])));
  loop->Post([tail] {
    if (!tail->read_end_) return;
    const absl::Status added =
        tail->loop_->Add(tail->read_end_.get(), EPOLLIN, [tail](uint32_t) { tail->Read(); });
    if (!added.ok()) tail->read_end_.reset();
  });
  return tail;
}

void ConsoleTail::Read() {
  std::array<char, kTailBytes> buffer;
  const ssize_t count = read(read_end_.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    Remove();
    return;
  }
  absl::MutexLock lock(&mutex_);
  tail_.append(buffer.data(), static_cast<size_t>(count));
  if (tail_.size() > kTailBytes) tail_.erase(0, tail_.size() - kTailBytes);
}

void ConsoleTail::Remove() {
  loop_->Remove(read_end_.get());
  read_end_.reset();
}

std::string ConsoleTail::Text() const {
  absl::MutexLock lock(&mutex_);
  return wire::SanitizeText(tail_, kTailBytes);
}

void ConsoleTail::Close() {
  loop_->Post([self = shared_from_this()] { self->Remove(); });
}

}  // namespace hearth::control
