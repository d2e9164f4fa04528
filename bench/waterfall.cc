// SPDX-License-Identifier: Apache-2.0
#include "bench/waterfall.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace hearth::bench {
namespace {

constexpr size_t kTextColumns = 48;

// Of the picture, in pixels.
constexpr double kWidth = 860;
constexpr double kBarsAt = 250;
constexpr double kBarsWidth = 520;
constexpr double kRow = 18;
constexpr double kTitleRow = 30;
constexpr double kGap = 14;

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

double HeightOf(const Waterfall& waterfall) {
  return kTitleRow + kRow * static_cast<double>(waterfall.bars.size()) + kGap;
}

void AddSvg(const Waterfall& waterfall, double top, std::string* svg) {
  const double scale = waterfall.total() > 0 ? kBarsWidth / waterfall.total() : 0;
  absl::StrAppendFormat(svg, "<text x=\"10\" y=\"%.0f\" font-weight=\"bold\">%s: %.2f %s</text>\n",
                        top + 20, Escaped(waterfall.title), waterfall.total(),
                        Escaped(waterfall.unit));
  double y = top + kTitleRow;
  for (const Waterfall::Bar& bar : waterfall.bars) {
    const double length = bar.end - bar.begin;
    const double width = std::max(length * scale, 1.0);
    absl::StrAppendFormat(svg,
                          "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">%s</text>\n"
                          "<rect x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" height=\"12\"/>\n"
                          "<text x=\"%.1f\" y=\"%.0f\" class=\"figure\">%.2f</text>\n",
                          kBarsAt - 8, y + 10, Escaped(bar.label), kBarsAt + bar.begin * scale, y,
                          width, kBarsAt + bar.begin * scale + width + 4, y + 10, length);
    y += kRow;
  }
}

}  // namespace

Waterfall MakeWaterfall(std::string title, std::string unit, const std::vector<Sample>& samples) {
  Waterfall waterfall{std::move(title), std::move(unit), {}};
  double begin = 0;
  for (const Station& station : kStations) {
    const auto end = Percentile(FigureOf(samples, station.figure), 50);
    if (!end.has_value()) continue;
    waterfall.bars.push_back({station.label, begin, *end});
    begin = *end;
  }
  return waterfall;
}

std::string WaterfallText(const Waterfall& waterfall) {
  std::string text =
      absl::StrFormat("%s: %.2f %s\n", waterfall.title, waterfall.total(), waterfall.unit);
  const double scale = waterfall.total() > 0 ? kTextColumns / waterfall.total() : 0;
  for (const Waterfall::Bar& bar : waterfall.bars) {
    const auto from = static_cast<size_t>(std::clamp(bar.begin * scale, 0.0, kTextColumns - 1.0));
    const auto to = static_cast<size_t>(std::lround(bar.end * scale));
    const size_t length = std::max<size_t>(to > from ? to - from : 0, 1);
    absl::StrAppendFormat(&text, "  %-34s %9.2f |%s%s\n", bar.label, bar.end - bar.begin,
                          std::string(from, ' '), std::string(length, '#'));
  }
  return text;
}

std::string WaterfallSvg(const std::vector<Waterfall>& waterfalls) {
  double height = kGap;
  for (const Waterfall& waterfall : waterfalls) height += HeightOf(waterfall);
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "viewBox=\"0 0 %.0f %.0f\">\n"
      "<style>text{font:12px sans-serif;fill:#222}.figure{font-size:11px;fill:#555}"
      "rect{fill:#c2410c}</style>\n"
      "<path d=\"M0 0H%.0fV%.0fH0z\" fill=\"#fff\"/>\n",
      kWidth, height, kWidth, height, kWidth, height);
  double top = 0;
  for (const Waterfall& waterfall : waterfalls) {
    AddSvg(waterfall, top, &svg);
    top += HeightOf(waterfall);
  }
  return svg + "</svg>\n";
}

}  // namespace hearth::bench
