// SPDX-License-Identifier: Apache-2.0
#include "bench/samples.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace hearth::bench {

Summary Summarize(std::vector<double> values) {
  Summary summary;
  if (values.empty()) return summary;
  std::sort(values.begin(), values.end());
  summary.count = values.size();
  summary.min = values.front();
  summary.max = values.back();
  const size_t middle = values.size() / 2;
  summary.median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return summary;
}

std::vector<double> FigureOf(const std::vector<Sample>& samples, const std::string& figure) {
  std::vector<double> values;
  for (const Sample& sample : samples) {
    if (const auto it = sample.find(figure); it != sample.end()) values.push_back(it->second);
  }
  return values;
}

Summary SummarizeFigure(const std::vector<Sample>& samples, const std::string& figure) {
  return Summarize(FigureOf(samples, figure));
}

std::optional<double> Percentile(std::vector<double> values, double percent) {
  const auto count = static_cast<double>(values.size());
  // In thousandths, for 1 - 0.999 is not a thousandth.
  if (count * std::round((100 - percent) * 10) < 1000 && percent > 50) return std::nullopt;
  if (values.empty()) return std::nullopt;
  const auto rank = static_cast<size_t>(std::ceil(std::round(percent * 10) * count / 1000));
  const auto place = values.begin() + static_cast<ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

nlohmann::json PercentilesJson(const std::vector<double>& values) {
  nlohmann::json json = {{"count", values.size()}};
  for (const double percent : kPercents) {
    char name[16];
    std::snprintf(name, sizeof name, "p%g", percent);
    const auto value = Percentile(values, percent);
    json[name] = value.has_value() ? nlohmann::json(*value) : nlohmann::json();
  }
  json["max"] = values.empty() ? nlohmann::json()
                               : nlohmann::json(*std::max_element(values.begin(), values.end()));
  return json;
}

nlohmann::json ToJson(const Summary& summary) {
  return {{"count", summary.count},
          {"min", summary.min},
          {"median", summary.median},
          {"max", summary.max}};
}

}  // namespace hearth::bench
