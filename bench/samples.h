// SPDX-License-Identifier: Apache-2.0
// Raw samples, and what is said about them.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hearth::bench {

// One run: figures by name, in a fixed order ("spawn_ms", ..., and "exits"). Keys end in their
// unit;
// "_ms" is a million ticks of the clock.
using Sample = std::map<std::string, double>;

struct Summary {
  size_t count = 0;
  double min = 0;
  double median = 0;
  double max = 0;
};

// `values` may be in any order; all zero when there are none.
Summary Summarize(std::vector<double> values);
// Of one figure in many samples; those without it are left out.
Summary SummarizeFigure(const std::vector<Sample>& samples, const std::string& figure);

nlohmann::json ToJson(const Summary& summary);

}  // namespace hearth::bench
