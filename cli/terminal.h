// SPDX-License-Identifier: Apache-2.0
// Where a command writes: results to `out`, progress and remarks to `err`.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

namespace hearth::cli {

struct Terminal {
  std::ostream& out;
  std::ostream& err;
  bool out_is_tty = false;
  bool err_is_tty = false;  // Progress and colours are shown only then.
  bool can_ask = false;     // Somebody sees `err` and types into stdin.
  int columns = 80;

  // For this process's own streams; NO_COLOR and TERM=dumb switch progress and colours off.
  static Terminal ForProcess();

  std::string Bold(const std::string& text) const;
  std::string Red(const std::string& text) const;
  std::string Green(const std::string& text) const;
};

// One line at the bottom of a terminal that is written over as work goes on, and is gone when it
// ends. Where there is no terminal it writes nothing.
class ProgressLine {
 public:
  explicit ProgressLine(const Terminal& terminal) : terminal_(terminal) {}
  ~ProgressLine() { Clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const std::string& text);
  // With a bar; `done` of `total` bytes.
  void ShowBytes(const std::string& label, int64_t done, int64_t total);
  void Clear();

 private:
  const Terminal& terminal_;
  std::string shown_;
};

}  // namespace hearth::cli
