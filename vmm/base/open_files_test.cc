// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/open_files.h"

#include <catch2/catch.hpp>

namespace hearth {
namespace {

TEST_CASE("open files: the limit is raised as far as this process may") {
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = 64;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(RaiseOpenFileLimit() == limit.rlim_max);
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(limit.rlim_cur == limit.rlim_max);
}

}  // namespace
}  // namespace hearth
