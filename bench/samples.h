// SPDX-License-Identifier: Apache-2.0
// Raw samples, and what is said about them.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
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

// The smallest value that at least `percent` of all are not above (nearest rank). Nothing when
// there are too few for one of them to lie beyond it: p99 wants 100.
std::optional<double> Percentile(std::vector<double> values, double percent);
std::vector<double> FigureOf(const std::vector<Sample>& samples, const std::string& figure);

inline constexpr double kPercents[] = {50, 90, 99, 99.9};
// {"count", "p50", "p90", "p99", "p99.9", "max"}; null where there are too few.
nlohmann::json PercentilesJson(const std::vector<double>& values);

}  // namespace hearth::bench
