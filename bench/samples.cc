// SPDX-License-Identifier: Apache-2.0
#include "bench/samples.h"

#include <algorithm>

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

Summary SummarizeFigure(const std::vector<Sample>& samples, const std::string& figure) {
  std::vector<double> values;
  for (const Sample& sample : samples) {
    if (const auto it = sample.find(figure); it != sample.end()) values.push_back(it->second);
  }
  return Summarize(std::move(values));
}

nlohmann::json ToJson(const Summary& summary) {
  return {{"count", summary.count},
          {"min", summary.min},
          {"median", summary.median},
          {"max", summary.max}};
}

}  // namespace hearth::bench
