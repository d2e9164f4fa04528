// SPDX-License-Identifier: Apache-2.0
// A line for each case as it ends, with the seconds it took, and their number at the end: what
// scripts/test adds up.
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
#include <cstdio>
#include <string>

#include "absl/time/clock.h"
#include "tests/conformance/world.h"

namespace hearth::conformance {
namespace {

struct Report : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    TestEventListenerBase::testCaseStarting(info);
    began_ = absl::Now();
  }
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    const bool passed = stats.totals.assertions.allOk();
    std::printf("%-8s %s  (%.1f s)\n", passed ? "passed" : "failed", stats.testInfo.name.c_str(),
                absl::ToDoubleSeconds(absl::Now() - began_));
    std::fflush(stdout);
  }
  void testRunEnded(const Catch::TestRunStats& stats) override {
    World::End();
    std::printf("%zu passed, %zu failed, 0 skipped\n",
                static_cast<size_t>(stats.totals.testCases.passed),
                static_cast<size_t>(stats.totals.testCases.failed));
    std::fflush(stdout);
  }

 private:
  absl::Time began_;
};

CATCH_REGISTER_LISTENER(Report)

}  // namespace
}  // namespace hearth::conformance
