// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <thread>
#include <utility>

#include "cli/failure.h"

namespace hearth::cli {

Interrupt::Scope::Scope(Interrupt* interrupt, std::function<void()> action)
    : interrupt_(interrupt) {
  absl::MutexLock lock(&interrupt_->mutex_);
  if (interrupt_->raised_) action();
  previous_ = std::exchange(interrupt_->action_, std::move(action));
}

Interrupt::Scope::~Scope() {
  absl::MutexLock lock(&interrupt_->mutex_);
  interrupt_->action_ = std::move(previous_);
}

bool Interrupt::Raise() {
  absl::MutexLock lock(&mutex_);
  raised_ = true;
  if (action_) action_();
  return action_ != nullptr;
}

bool Interrupt::raised() const {
  absl::MutexLock lock(&mutex_);
  return raised_;
}

void Interrupt::WatchSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([this, set] {
    int signal = 0;
    if (sigwait(&set, &signal) == 0 && Raise()) sigwait(&set, &signal);
    _exit(kExitInterrupted);
  }).detach();
}

}  // namespace hearth::cli
