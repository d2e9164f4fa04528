// SPDX-License-Identifier: Apache-2.0
// Where the time of a start goes, drawn: one bar from each station to the next.
#pragma once

#include <string>
#include <vector>

#include "bench/starts.h"

namespace hearth::bench {

struct Waterfall {
  struct Bar {
    std::string label;  // What has happened by its end.
    double begin = 0;
    double end = 0;
  };
  std::string title;
  std::string unit;
  std::vector<Bar> bars;
  double total() const { return bars.empty() ? 0 : bars.back().end; }
};

// Of the stations' medians, which are in the stations' order as each sample's are.
Waterfall MakeWaterfall(std::string title, std::string unit, const std::vector<Sample>& samples);

// One line for each bar.
std::string WaterfallText(const Waterfall& waterfall);
// A picture, one below the other, each to its own scale.
std::string WaterfallSvg(const std::vector<Waterfall>& waterfalls);

}  // namespace hearth::bench
