// SPDX-License-Identifier: Apache-2.0
#include "bench/open_loop.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "bench/clock.h"

namespace hearth::bench {
namespace {

void SleepUntil(uint64_t when_ns) {
  timespec when{};
  when.tv_sec = static_cast<time_t>(when_ns / 1'000'000'000);
  when.tv_nsec = static_cast<long>(when_ns % 1'000'000'000);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, nullptr) == EINTR) {
  }
}

}  // namespace

Sample StationsFromDue(const Reply& reply, double late_ms) {
  Sample sample = StationsOf(reply);
  for (const Station& station : kStations) {
    const auto found = sample.find(station.figure);
    if (found != sample.end()) found->second += late_ms;
  }
  sample["late_ms"] = late_ms;
  return sample;
}

OpenLoopResults RunOpenLoop(const OpenLoopOptions& options, const Invoker& invoke) {
  const std::vector<uint64_t> arrivals =
      Arrivals(options.arrivals, options.rate, options.seconds, options.seed);
  OpenLoopResults results;
  absl::Mutex mutex;
  std::atomic<size_t> next{0};
  const uint64_t begin_ns = NowNs();
  const auto work = [&] {
    for (size_t i = next++; i < arrivals.size(); i = next++) {
      const uint64_t due_ns = begin_ns + arrivals[i];
      SleepUntil(due_ns);
      const double late_ms = static_cast<double>(NowNs() - due_ns) / 1e6;
      const absl::StatusOr<Reply> reply = invoke();
      absl::MutexLock lock(&mutex);
      if (reply.ok()) {
        results.starts[DescribeStart(reply->invocation)].push_back(
            StationsFromDue(*reply, late_ms));
      } else {
        results.failures.emplace_back(reply.status().message());
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::min(kMaxUnderWay, arrivals.size()); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace hearth::bench
