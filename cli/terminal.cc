// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "cli/format.h"

namespace hearth::cli {
namespace {

constexpr int kBarWidth = 24;

}  // namespace

Terminal Terminal::ForProcess() {
  const char* term = std::getenv("TERM");
  const bool plain =
      std::getenv("NO_COLOR") != nullptr || term == nullptr || std::string(term) == "dumb";
  Terminal terminal{std::cout, std::cerr};
  terminal.out_is_tty = isatty(STDOUT_FILENO) == 1;
  terminal.err_is_tty = !plain && isatty(STDERR_FILENO) == 1;
  terminal.can_ask = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
  winsize size{};
  if (terminal.err_is_tty && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.columns = size.ws_col;
  }
  return terminal;
}

std::string Terminal::Bold(const std::string& text) const {
  return err_is_tty ? "\033[1m" + text + "\033[0m" : text;
}
std::string Terminal::Red(const std::string& text) const {
  return err_is_tty ? "\033[1;31m" + text + "\033[0m" : text;
}
std::string Terminal::Green(const std::string& text) const {
  return err_is_tty ? "\033[32m" + text + "\033[0m" : text;
}

void ProgressLine::Show(const std::string& text) {
  if (!terminal_.err_is_tty) return;
  // A line that wraps could not be written over.
  const std::string line = SafeText(text).substr(0, static_cast<size_t>(terminal_.columns - 1));
  if (line == shown_) return;
  shown_ = line;
  terminal_.err << "\r\033[K" << line << std::flush;
}

void ProgressLine::ShowBytes(const std::string& label, int64_t done, int64_t total) {
  const double part = total > 0 ? std::clamp(static_cast<double>(done) / total, 0.0, 1.0) : 1.0;
  const int filled = static_cast<int>(part * kBarWidth);
  Show(label + " [" + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + "] " +
       FormatBytes(done) + " of " + FormatBytes(total));
}

void ProgressLine::Clear() {
  if (shown_.empty()) return;
  shown_.clear();
  terminal_.err << "\r\033[K" << std::flush;
}

}  // namespace hearth::cli
