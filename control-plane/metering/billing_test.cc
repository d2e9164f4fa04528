// SPDX-License-Identifier: Apache-2.0
#include "control-plane/metering/billing.h"

#include <catch2/catch.hpp>
#include <limits>

namespace hearth::control {
namespace {

hearth::v1::Invocation Ran(int64_t execution_ns) {
  hearth::v1::Invocation invocation;
  invocation.set_name("tenants/t/functions/f/invocations/0189-id");
  invocation.set_version("tenants/t/functions/f/versions/7");
  invocation.set_outcome(hearth::v1::SUCCEEDED);
  auto* execution = invocation.mutable_timing()->mutable_execution();
  execution->set_seconds(execution_ns / 1'000'000'000);
  execution->set_nanos(static_cast<int32_t>(execution_ns % 1'000'000'000));
  auto* host = invocation.mutable_usage()->mutable_host();
  host->set_memory_mib(256);
  host->set_cpu_ns(42);
  // What the guest claims must not matter.
  invocation.mutable_usage()->mutable_guest()->set_user_cpu_ns(1'000'000);
  invocation.mutable_usage()->mutable_guest()->set_peak_memory_bytes((40 << 20) + 1);
  return invocation;
}

}  // namespace

TEST_CASE("billing: execution is rounded up to whole milliseconds, and only the host is asked") {
  for (const auto& [ns, ms] : {std::pair<int64_t, int64_t>{0, 0},
                               {1, 1},
                               {1'000'000, 1},
                               {1'000'001, 2},
                               {2'345'678'901, 2346}}) {
    auto invocation = Ran(ns);
    Bill(&invocation);
    const auto& billed = invocation.usage().billed();
    CHECK(billed.duration_ms() == ms);
    CHECK(billed.memory_mib_ms() == ms * 256);
    CHECK(billed.cpu_ns() == 42);
    CHECK(billed.invocations() == 1);
  }
}

TEST_CASE("billing: sums add up, memory is a maximum") {
  hearth::v1::Usage sum;
  for (const int64_t ms : {1, 2, 3}) {
    auto invocation = Ran(ms * 1'000'000);
    Bill(&invocation);
    AddUsage(invocation.usage(), &sum);
  }
  CHECK(sum.billed().duration_ms() == 6);
  CHECK(sum.billed().invocations() == 3);
  CHECK(sum.host().cpu_ns() == 126);
  CHECK(sum.host().memory_mib() == 256);
}

TEST_CASE("billing: what a guest claims beyond all reason makes no sum or line overflow") {
  auto invocation = Ran(1'000'000);
  auto* guest = invocation.mutable_usage()->mutable_guest();
  guest->set_user_cpu_ns(std::numeric_limits<int64_t>::max());
  guest->set_peak_memory_bytes(std::numeric_limits<int64_t>::max());
  Bill(&invocation);
  hearth::v1::Usage sum;
  AddUsage(invocation.usage(), &sum);
  AddUsage(invocation.usage(), &sum);
  CHECK(sum.guest().user_cpu_ns() == std::numeric_limits<int64_t>::max());
  CHECK(sum.billed().duration_ms() == 2);
  CHECK(ReportLine(invocation).find("Max Memory Used: 8796093022207 MB") != std::string::npos);
}

TEST_CASE("billing: the platform's lines have the form that tools know") {
  auto invocation = Ran(12'345'678);
  Bill(&invocation);
  CHECK(StartLine(invocation) == "START RequestId: 0189-id Version: 7");
  CHECK(EndLine(invocation) == "END RequestId: 0189-id");
  CHECK(ReportLine(invocation) ==
        "REPORT RequestId: 0189-id\tDuration: 12.35 ms\tBilled Duration: 13 ms\tMemory Size: 256 "
        "MB\tMax Memory Used: 41 MB");
  invocation.mutable_timing()->mutable_init()->set_nanos(5'000'000);
  CHECK(ReportLine(invocation).find("\tInit Duration: 5.00 ms") != std::string::npos);
}

}  // namespace hearth::control
