// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>

#include "vmm/base/unique_fd.h"

namespace hearth::vmm::testing {

inline UniqueFd OpenKvm() { return UniqueFd(open("/dev/kvm", O_RDWR | O_CLOEXEC)); }

// False, with a line that cmake/run-test finds, when this host has no KVM to use.
inline bool HaveKvm(const char* test) {
  if (OpenKvm()) return true;
  std::printf("SKIPPED: %s: /dev/kvm: %s\n", test, std::strerror(errno));
  return false;
}

}  // namespace hearth::vmm::testing

// First line of a test that needs KVM.
#define REQUIRE_KVM()                                                                             \
  do {                                                                                            \
    if (!hearth::vmm::testing::HaveKvm(Catch::getResultCapture().getCurrentTestName().c_str())) { \
      return;                                                                                     \
    }                                                                                             \
  } while (false)
