// SPDX-License-Identifier: Apache-2.0
// hearth: the command line of hearthd.
#include <csignal>

#include "cli/app.h"

int main(int argc, char** argv) {
  // A reader that left (`hearth logs -f | head`) is an error of that write, not the end of us.
  std::signal(SIGPIPE, SIG_IGN);
  static hearth::cli::Interrupt interrupt;  // Outlives its thread.
  interrupt.WatchSignals();
  const auto terminal = hearth::cli::Terminal::ForProcess();
  return hearth::cli::RunApp({argv + 1, argv + argc}, terminal, &interrupt);
}
