// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "bench/arrivals.h"
#include "bench/cold_start.h"
#include "bench/open_loop.h"
#include "bench/page_cache.h"
#include "bench/vmm_processes.h"
#include "vmm/base/unique_fd.h"

namespace hearth::bench {
namespace {

TEST_CASE("arrivals: fixed ones have equal gaps, and none is due at the end") {
  CHECK(Arrivals(ArrivalKind::kFixed, 4, 1, 7) ==
        std::vector<uint64_t>{0, 250'000'000, 500'000'000, 750'000'000});
  CHECK(Arrivals(ArrivalKind::kFixed, 1, 0.5, 7).size() == 1);
}

TEST_CASE(
    "arrivals: Poisson ones are as many as the rate says, as scattered, "
    "and repeat") {
  const auto arrivals = Arrivals(ArrivalKind::kPoisson, 1000, 100, 7);
  const auto count = static_cast<double>(arrivals.size());
  CHECK(count == Approx(100'000).epsilon(0.02));
  CHECK(std::is_sorted(arrivals.begin(), arrivals.end()));
  CHECK(arrivals.back() < 100'000'000'000);
  // A Poisson process: the gaps' deviation is their mean, and 1/e of them are
  // longer.
  size_t longer = 0;
  for (size_t i = 1; i < arrivals.size(); ++i) {
    longer += arrivals[i] - arrivals[i - 1] > 1'000'000 ? 1 : 0;
  }
  CHECK(static_cast<double>(longer) / count == Approx(0.3679).epsilon(0.02));
  CHECK(Arrivals(ArrivalKind::kPoisson, 1000, 100, 7) == arrivals);
  CHECK(Arrivals(ArrivalKind::kPoisson, 1000, 100, 8) != arrivals);
}

TEST_CASE("open loop: each arrival is sent once, and counts from when it was due") {
  OpenLoopOptions options;
  options.rate = 1000;
  options.seconds = 0.05;
  options.arrivals = ArrivalKind::kFixed;
  std::atomic<int> sent{0};
  const OpenLoopResults results = RunOpenLoop(options, [&]() -> absl::StatusOr<Reply> {
    if (++sent == 50) return absl::UnavailableError("the fiftieth");
    Reply reply;
    reply.invocation.set_start_kind(hearth::v1::WARM);
    reply.reply_ms = 3;
    return reply;
  });
  CHECK(sent == 50);
  CHECK(results.failures == std::vector<std::string>{"the fiftieth"});
  REQUIRE(results.starts.size() == 1);
  const auto& samples = results.starts.at("warm");
  CHECK(samples.size() == 49);
  for (const Sample& sample : samples) {
    CHECK(sample.at("reply_ms") == 3 + sample.at("late_ms"));
    CHECK(sample.at("late_ms") >= 0);
  }
}

TEST_CASE(
    "cold starts: only a closed loop of one is taken where instructions "
    "are counted") {
  ClockKind counting;
  counting.counts_instructions = true;
  ColdStartOptions options;
  CHECK(CheckLoad(options, counting).ok());
  options.concurrency = 2;
  CHECK(CheckLoad(options, ClockKind()).ok());
  CHECK(CheckLoad(options, counting).code() == absl::StatusCode::kFailedPrecondition);
  options.concurrency = 1;
  options.open_loop.rate = 5;
  CHECK(CheckLoad(options, counting).message().find("--rate") == 0);
}

TEST_CASE(
    "page cache: what was dropped is not there any more; a folder in "
    "memory is refused") {
  std::string folder = std::filesystem::current_path() / "page-cache-XXXXXX";
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  const std::string path = folder + "/file";
  std::ofstream(path) << std::string(1 << 20, 'x');
  const auto dropped = DropFromPageCache(folder);
  if (absl::IsFailedPrecondition(dropped.status())) {
    // The tests themselves run in memory, or on a file system that ignores the
    // advice.
    WARN(dropped.status());
  } else {
    REQUIRE(dropped.ok());
    CHECK(*dropped == 1 << 20);
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    CHECK(CachedBytes(file.get()).value() == 0);
    char byte = 0;
    CHECK(read(file.get(), &byte, 1) == 1);
    CHECK(CachedBytes(file.get()).value() > 0);
  }
  std::filesystem::remove_all(folder);
  CHECK(DropFromPageCache("/nonexistent").status().code() == absl::StatusCode::kNotFound);
  if (std::filesystem::exists("/dev/shm")) {
    const absl::Status in_memory = DropFromPageCache("/dev/shm").status();
    CHECK(in_memory.message() ==
          "/dev/shm is in memory (tmpfs): there is no "
          "page cache to drop it from");
  }
}

TEST_CASE("VMM processes: faults are counted whatever the program is called") {
  CHECK(FaultsIn("12 (a) b) R 1 2 3 4 5 6 70 8 9 10 11\n") == 79);
  CHECK_FALSE(FaultsIn("12 (short) R 1 2").has_value());
  CHECK_FALSE(FaultsIn("").has_value());
  const auto own = CountsOf(getpid());
  REQUIRE(own.has_value());
  CHECK(own->page_faults > 0);
  CHECK_FALSE(CountsOf(0x7fffffff).has_value());
  CHECK(MemoryOf(getpid()).value().private_bytes > 0);
  CHECK(AvailableBytes().value() > 0);
}

}  // namespace
}  // namespace hearth::bench
