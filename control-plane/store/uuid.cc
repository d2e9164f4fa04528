// SPDX-License-Identifier: Apache-2.0
#include "control-plane/store/uuid.h"

#include <sys/random.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"

namespace hearth::control {
namespace {

uint64_t Random64() {
  uint64_t value = 0;
  // 8 bytes are never cut short (getrandom(2)); without randomness no id can be given.
  if (getrandom(&value, sizeof(value), 0) != sizeof(value)) std::abort();
  return value;
}

}  // namespace

std::string UuidGenerator::Next() {
  return NextAt(static_cast<uint64_t>(absl::ToUnixMillis(absl::Now())));
}

std::string UuidGenerator::NextAt(uint64_t unix_ms) {
  const uint64_t random = Random64();
  uint64_t ms = 0;
  uint32_t counter = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (unix_ms > last_ms_) {
      last_ms_ = unix_ms;
      // Half the range stays free for ids of the same millisecond.
      counter_ = static_cast<uint32_t>(Random64() & 0x7ff);
    } else if (++counter_ > 0xfff) {
      ++last_ms_;
      counter_ = 0;
    }
    ms = last_ms_;
    counter = counter_;
  }
  const uint64_t tail = (random & 0x3fffffffffffffffull) | 0x8000000000000000ull;
  char text[37];
  std::snprintf(text, sizeof(text), "%08x-%04x-7%03x-%04x-%012llx",
                static_cast<unsigned>(ms >> 16 & 0xffffffff), static_cast<unsigned>(ms & 0xffff),
                counter, static_cast<unsigned>(tail >> 48),
                static_cast<unsigned long long>(tail & 0xffffffffffffull));
  return text;
}

bool IsUuid(absl::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

}  // namespace hearth::control
