// SPDX-License-Identifier: Apache-2.0
// hearth-bench: what Hearth costs, measured.
#include <cstdio>
#include <exception>

#include "bench/command.h"
#include "bench/outside_commands.h"

namespace hearth::bench {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Measures what Hearth costs.", "hearth-bench");
  app.require_subcommand(1);
  Commands commands;
  AddBoot(&app, &commands);
  AddRestore(&app, &commands);
  AddInvoke(&app, &commands);
  AddColdStart(&app, &commands);
  AddBackends(&app, &commands);
  AddInvitro(&app, &commands);
  AddBurst(&app, &commands);
  CLI11_PARSE(app, argc, argv);
  for (const Command& command : commands) {
    if (*command.app) return command.run();
  }
  return 1;
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) {
  try {
    return hearth::bench::Main(argc, argv);
  } catch (const std::exception& error) {  // What CLI11 throws for an option declared wrongly.
    std::fprintf(stderr, "hearth-bench: %s\n", error.what());
    return 1;
  }
}
