// SPDX-License-Identifier: Apache-2.0
// `hearth-bench invoke`: a function's cold and warm invocations, through a hearthd that runs.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/call.h"
#include "bench/clock.h"
#include "bench/samples.h"
#include "hearth/v1/services.pb.h"
#include "vmm/base/status.h"

namespace hearth::bench {

struct InvokeOptions {
  std::string socket = "/run/hearth/hearthd.sock";
  Call call;
  int runs = 10;
  int warmup = 2;
};

struct InvokeResults {
  ClockKind clock;
  std::map<std::string, std::vector<Sample>> samples;  // "cold" and "warm".
  std::map<std::string, std::vector<Sample>> discarded;
};

// Each run waits until hearthd has ended all of the function's instances (so it wants a short
// --idle-stop), invokes it cold, and again warm. A start of another kind is an error, and so is an
// outcome other than SUCCEEDED.
absl::StatusOr<InvokeResults> RunInvoke(const InvokeOptions& options,
                                        const std::function<void(const std::string&)>& progress);

// The stations of one invocation: the client's own measure, and hearthd's.
Sample SampleOf(const hearth::v1::Invocation& invocation, double reply_ms);

std::string InvokeText(const InvokeOptions& options, const InvokeResults& results);
nlohmann::json InvokeJson(const InvokeOptions& options, const InvokeResults& results);

}  // namespace hearth::bench
